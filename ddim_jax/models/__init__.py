"""Networks in Flax, and what holds for the weights of any of them."""


def check_fit(found: dict, expected: dict, source: str) -> None:
    """Raises ValueError, naming each array of the two that is missing, unknown or of another shape or dtype, with both shapes."""

    def described(arrays, name, where_not):
        return f"{arrays[name].dtype}{list(arrays[name].shape)}" if name in arrays else where_not

    pairs = {
        name: (described(found, name, "missing"), described(expected, name, "nothing of this name"))
        for name in sorted(expected.keys() | found.keys())
    }
    faults = [f"{name}: {given}, expected {wanted}" for name, (given, wanted) in pairs.items() if given != wanted]
    if faults:
        listed = "\n  ".join(faults[:20] + [f"... {len(faults)} in all"] * (len(faults) > 20))
        raise ValueError(f"{source} does not fit this configuration; was it made with another one?\n  {listed}")
