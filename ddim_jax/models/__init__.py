"""Networks in Flax, and what holds for the weights of any of them."""


def check_fit(found: dict, expected: dict, source: str) -> None:
    """Raises ValueError, naming each array of the two that is missing, unknown or of another shape or dtype."""
    faults = [f"{name}: missing" for name in expected if name not in found]
    faults += [f"{name}: not part of this network" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        if found[name].shape != expected[name].shape or found[name].dtype != expected[name].dtype:
            given, wanted = (f"{a[name].dtype}{list(a[name].shape)}" for a in (found, expected))
            faults.append(f"{name}: {given}, expected {wanted}")
    if faults:
        listed = "\n  ".join(sorted(faults)[:20] + [f"... {len(faults)} in all"] * (len(faults) > 20))
        raise ValueError(f"{source} does not fit this configuration; was it made with another one?\n  {listed}")
