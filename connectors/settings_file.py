"""The file of client settings (`--settings`): a section for each outside system, secrets kept elsewhere.

Owns: reading a section, and keeping secrets out of what is said. Refuses: connecting, what properties mean.

    kafka:                                    # any property that librdkafka takes
      security.protocol: SASL_SSL
      sasl.mechanism: SCRAM-SHA-512
      sasl.username: lookback
      sasl.password: {env: KAFKA_PASSWORD}    # or {file: /run/secrets/kafka}
    schema_registry:                          # any property that confluent-kafka's registry client takes
      url: https://registry:8081
      basic.auth.user.info: {env: REGISTRY_USER_INFO}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lookback.errors import UsageError

KAFKA_SECTION, REGISTRY_SECTION = "kafka", "schema_registry"
SECTIONS = (KAFKA_SECTION, REGISTRY_SECTION)
_SECRET = re.compile(
    r"password|secret|passphrase|\.key\.pem$|oauthbearer\.(config|assertion)|token|user\.info"
)


@dataclass(frozen=True)
class ClientSettings:
    """Properties for the clients of one outside system, and those of their values that nobody may read."""

    properties: Mapping[str, str] = field(repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    def harmless(self, text: str) -> str:
        """Return a message of the client library's without any secret in it."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def read_section(path: Path | None, name: str, ours: Mapping[str, str]) -> ClientSettings:
    """Return a section of the file; none where there is no file or no such section.

    ours: properties that the job decides itself, with the reason.

    Raises UsageError, naming file and property but no value, where the file is not as it must be.
    """
    properties, secrets = {}, set()
    for key, value in ({} if path is None else _sections(path)).get(name, {}).items():
        if key in ours:
            raise UsageError(f"{path}: leave {key} out: {ours[key]}")
        text, secret = _value(value, f"{path}: {key}")
        properties[key] = text
        if text and (secret or _SECRET.search(key)):
            secrets.add(text)
    return ClientSettings(properties, frozenset(secrets))


def _sections(path: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"the settings {path} can't be read: {why}") from None
    except yaml.YAMLError as error:
        # Its own words quote the file, and so perhaps a password.
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
        raise UsageError(f"{path}{where}: this is not YAML") from None
    right = isinstance(found, dict) and found and set(found) <= set(SECTIONS)
    if not right or not all(isinstance(section, dict) for section in found.values()):
        raise UsageError(
            f"{path}: write the clients' properties under their keys, `{KAFKA_SECTION}:` and `{REGISTRY_SECTION}:`"
        )
    sections: dict[str, Any] = found
    return sections


def _value(value: Any, where: str) -> tuple[str, bool]:
    """Return a property's text, and whether it was kept elsewhere than in the file, as secrets are."""
    if isinstance(value, bool):
        return str(value).lower(), False
    if isinstance(value, (str, int, float)):
        return str(value), False
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if kind == "env" and isinstance(name, str):
            if name not in os.environ:
                raise UsageError(f"{where}: the environment variable {name} is not set")
            return os.environ[name], True
        if kind == "file" and isinstance(name, str):
            try:
                return Path(name).read_text(encoding="utf-8").rstrip("\r\n"), True
            except (OSError, UnicodeDecodeError):
                raise UsageError(f"{where}: the file {name} can't be read") from None
    raise UsageError(f"{where}: write a text, a number, true, false, {{env: NAME}} or {{file: PATH}}")
