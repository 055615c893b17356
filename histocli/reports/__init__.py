"""The reports of the commands: dataclasses that are written as JSON and read again."""
