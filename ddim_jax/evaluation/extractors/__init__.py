"""Networks that describe images: each file loads one as a `features.Extractor`."""
