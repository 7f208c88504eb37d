"""Objects in images: detectors, and what suites say of the objects that an image should show."""
