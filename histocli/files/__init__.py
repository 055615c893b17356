"""Files of folders and archives, read one by one, with limits; tables as CSV."""
