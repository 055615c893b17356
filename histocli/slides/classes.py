"""The classes of annotated areas: which are tumour, and which are not."""

# Names in small letters: of Camelyon16 and 17, of QuPath, and without a class.
TUMOUR_CLASSES = frozenset(
    {"", "_0", "_1", "tumor", "tumour", "metastases", "metastasis", "positive", "carcinoma", "cancer"}
)
EXCLUDED_CLASSES = frozenset({"_2", "exclusion", "normal", "negative", "ignore", "none", "other", "stroma", "necrosis"})
NO_TISSUE_CLASSES = frozenset({"_2", "exclusion", "ignore"})  # removed from a mask of the tissue


def normalise_class(name: str) -> str:
    """Return the name of a class in small letters, without QuPath's mark of an ignored class, such as `Ignore*`."""
    return name.strip().lower().rstrip("*")


def is_known_class(name: str) -> bool:
    """Return whether an area of this class is tumour, or certainly not."""
    return normalise_class(name) in TUMOUR_CLASSES | EXCLUDED_CLASSES
