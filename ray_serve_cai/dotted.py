"""`"pkg.mod:Class"` or `"pkg.mod.Class"` to the object it names; errors say which part failed."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from ray_serve_cai.errors import SpecError

_CODE = "CAI-SPEC-010"


def resolve(path: str) -> object:
    """Import and return what `path` names.

    Raises `SpecError` (CAI-SPEC-010) that says whether the path is malformed, a package or module
    is missing, importing it failed (the cause is kept), or the attribute is missing (with the
    nearest names).
    """
    module_name, attributes = _split(path)
    if attributes:
        return _attribute(_import(path, module_name), attributes, path)
    return _from_dots(path)


def _split(path: str) -> tuple[str, list[str]]:
    module, colon, attribute = path.partition(":")
    parts = module.split(".") + (attribute.split(".") if colon else [])
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise SpecError(_CODE, f'"{path}" is not a dotted path such as package.module.Class')
    return module, attribute.split(".") if colon else []


def _from_dots(path: str) -> object:
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            module = _import(path, module_name)
        except _Missing:
            continue
        return _attribute(module, parts[cut:], path)
    raise SpecError(_CODE, f'"{path}": there is no package or module "{parts[0]}"')


def _import(path: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            raise _Missing(_CODE, f'"{path}": there is no module "{missing}"') from error
        raise SpecError(
            _CODE, f'"{path}": importing "{name}" failed: no module "{missing}"'
        ) from error
    except (Exception, SystemExit) as error:
        raise SpecError(
            _CODE, f'"{path}": importing "{name}" failed: {type(error).__name__}: {error}'
        ) from error


def _attribute(module: ModuleType, names: list[str], path: str) -> object:
    found: object = module
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise SpecError(_CODE, f'"{path}": {_missing(name, names, found)}') from error
        except Exception as error:
            raise SpecError(_CODE, f'"{path}": getting "{name}" failed: {error}') from error
    return found


def _missing(name: str, names: list[str], found: object) -> str:
    where = getattr(found, "__name__", type(found).__name__)
    if isinstance(found, ModuleType) and hasattr(found, "__path__") and name != names[-1]:
        # More of the path follows, so a module was meant here.
        modules = [module.name for module in pkgutil.iter_modules(found.__path__)]
        return f'package "{where}" has no module "{name}"{_near(name, modules)}'
    kind = "module" if isinstance(found, ModuleType) else "class"
    public = [name for name in _names(found) if not name.startswith("_")]
    return f'{kind} "{where}" has no "{name}"{_near(name, public)}'


def _names(found: object) -> list[str]:
    try:
        return [str(name) for name in dir(found)]
    except Exception:  # noqa: BLE001 - the user's own `__dir__`; near names are only a help
        return []


def _near(name: str, candidates: list[str]) -> str:
    matches = difflib.get_close_matches(name, candidates, n=3)
    return (
        "; did you mean " + " or ".join(f'"{match}"' for match in matches) + "?" if matches else ""
    )


class _Missing(SpecError):
    """A module on the way is missing, so a shorter module path may still lead there."""
