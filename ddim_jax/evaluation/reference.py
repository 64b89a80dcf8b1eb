"""Statistics of real images that samples are compared with, kept in a file: read the next time, or published."""

import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddim_jax.common.files import at, here, whole
from ddim_jax.evaluation import measuring, scores
from ddim_jax.evaluation.features import Extractor
from ddim_jax.evaluation.measuring import Measured
from ddim_jax.evaluation.moments import Moments
from ddim_jax.evaluation.scores import Score


class Reference(NamedTuple):
    """Real images as an extractor sees them."""

    name: str  # what figures say that samples were compared with
    made_of: dict[str, Any]  # data set, split, count and preprocessing, and the extractor's name and digest; {} if unknown
    measured: Measured


def describing(extractor: Extractor) -> dict[str, str]:
    """What `made_of` says of the extractor."""
    return {"extractor": extractor.name, "extractor_digest": extractor.digest}


def of_images(source: Any, name: str, made: dict[str, Any], describe: measuring.Describe) -> Reference:
    """The reference that all images of a source make, an array uint8 [N, H, W, C] or a `sources.Source` of them."""
    measured = measuring.measure_images(describe, source)
    if measured.features is not None and len(measured.features) > scores.NEIGHBOURS:
        measured = measured._replace(radii=scores.radii(measured.features))
    return Reference(name, made, measured)


def cached(folder: str | os.PathLike, name: str, made: dict[str, Any], make: Callable[[], Reference]) -> Reference:
    """The reference of this name and content, from the folder, or else made and left there by the first host.

    A file that was made of something else is no error here: it is made anew.
    """
    digest = re.sub(r"\W", "", str(made["extractor_digest"]))[:8]
    path = at(folder) / f"{re.sub(r'[^-.=+0-9A-Za-z]+', '-', name)}-{digest}.npz"
    found = _read_if(path, json.loads(json.dumps(made)))
    if np.all(multihost_utils.process_allgather(np.array([found is not None]))) and found is not None:
        return found
    reference = make()  # by all hosts together, once one of them has none
    if jax.process_index() == 0:
        save(path, reference)
    return reference


def _read_if(path: pathlib.Path, made: dict[str, Any]) -> Reference | None:
    """The reference in a file, if there is one that was made of this."""
    try:
        found = load(path)
    except (FileNotFoundError, ValueError):
        return None
    return found if found.made_of == made else None


def save(path: str | os.PathLike, reference: Reference) -> None:
    """Writes a reference as .npz, whole or not at all.

    "mu" [D] and "sigma" [D, D] are mean and covariance, where pytorch-fid and others look for them, "mu_s" and "sigma_s" those
    at each place, "features" float32 [N, D], "radii" [N] their `scores.radii`; "metadata" is JSON that says what they are of.
    """
    n, moments, spatial, features, radii, score = reference.measured
    arrays: dict[str, Any] = {"mu": moments.mean, "sigma": moments.covariance}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    if features is not None:
        arrays["features"] = features
    if radii is not None:
        arrays["radii"] = radii
    told = {"name": reference.name, "n": n, "made_of": reference.made_of, "inception_score": score}
    with whole(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays, metadata=np.array(json.dumps(told)))


def load(path: str | os.PathLike) -> Reference:
    """Reads what `save` wrote, or the "mu" and "sigma" that others publish, of which nobody knows what they were made of.

    Raises FileNotFoundError where there is no file, and ValueError for one that is damaged or holds something else.
    """
    path = at(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no reference {path}; expected an .npz file with mean mu and covariance sigma")
    try:
        with here(path) as copy, np.load(copy, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or not an .npz file ({error})") from error
    mu, sigma = arrays.get("mu"), arrays.get("sigma")
    if mu is None or sigma is None or mu.ndim != 1 or sigma.shape != 2 * mu.shape:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"{path} holds {shapes}; a reference has the mean mu [D] and the covariance sigma [D, D]")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{path} holds NaN or infinite numbers: make the reference anew")
    told = json.loads(str(arrays["metadata"])) if "metadata" in arrays else {"name": path.name, "n": None, "made_of": {}}
    n, score = told["n"], told.get("inception_score")
    measured = Measured(
        n=n,
        moments=_moments(n, mu, sigma),
        spatial=_moments(n, arrays["mu_s"], arrays["sigma_s"]) if "mu_s" in arrays else None,
        features=arrays.get("features"),
        radii=arrays.get("radii"),
        inception_score=Score(*score) if score else None,
    )
    return Reference(told["name"], told["made_of"], measured)


def _moments(n: int | None, mean: np.ndarray, covariance: np.ndarray) -> Moments:
    n = n or 2  # any number of rows will do, for this covariance
    return Moments(n, mean.astype(np.float64), covariance.astype(np.float64) * (n - 1))


def check(reference: Reference, expected: dict[str, Any], num_features: int) -> None:
    """Raises ValueError where a reference does not fit: made by another extractor or otherwise, or of other features.

    expected:     what must be as in `made_of`: not which images these are, nor how many.
    num_features: D of the extractor.
    """
    found = len(reference.measured.moments.mean)
    if found != num_features:
        raise ValueError(f"the reference {reference.name} has {found} features, and the extractor finds {num_features}")
    wrong = [
        f"{key} was {reference.made_of[key]!r}, now {value!r}"
        for key, value in json.loads(json.dumps(expected)).items()
        if key in reference.made_of and reference.made_of[key] != value
    ]
    if wrong:
        raise ValueError(f"the reference {reference.name} was made otherwise: {'; '.join(wrong)}. Take the one that fits")
