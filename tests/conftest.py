"""Fixtures that every room of the tests shares."""

import locale
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"

# A deadline measures what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("the golden numbers are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def real_case_dir() -> Path:
    folder = SHARED / "data" / "BraTS20_Training_901"
    if not folder.is_dir():
        pytest.skip("the real case is not beside this checkout")
    return folder


@pytest.fixture(autouse=True)
def own_locale() -> Iterator[None]:
    """Restores the locale: itk, with which some tests write DICOM files, sets that of the whole process to "C"."""
    before = locale.setlocale(locale.LC_CTYPE)
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Restores what is logged: a bundle's `logging.conf` sets it for the whole process."""

    def loggers() -> list[logging.Logger]:
        known = logging.Logger.manager.loggerDict.values()
        return [logging.getLogger(), *(logger for logger in known if isinstance(logger, logging.Logger))]

    before = {
        logger: (logger.level, logger.disabled, logger.propagate, logger.handlers[:], logger.filters[:])
        for logger in loggers()
    }
    yield
    for logger in loggers():
        level, disabled, propagate, handlers, filters = before.get(logger, (logging.NOTSET, False, True, [], []))
        logger.setLevel(level)
        logger.disabled, logger.propagate = disabled, propagate
        logger.handlers[:], logger.filters[:] = handlers, filters


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Four small brains."""
    from custom_nets.tools import write_brain_phantoms  # not for every test

    folder = tmp_path_factory.mktemp("phantoms")
    write_brain_phantoms(folder, 4, (40, 40, 28), seed=5, progress=False)
    return folder
