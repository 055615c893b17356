"""Labels, slides, hospitals and splits of images: from tables, folders, names, and small files beside the images."""
