"""What the manifests start, as processes of this machine: the exact arguments, environment and mounts, translated.

a container         the process of its arguments behind `lookback`, the image's entry point, with its environment alone
a mount             a folder: a claim's stays, an emptyDir's is new at each start; its path is replaced wherever an
                    argument, a variable or a mounted file names it
a host name         the address of what runs here in its place, likewise (`hosts`)
a pod's own address 127.0.0.1 with ports of its own: lookback-N.lookback:2100, and 9464 for probes
metadata            the pod's index, by the fieldRefs that ask for it
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.deploy.manifests import ROOT, Object, of_kind
from tests.recovery.pods import free_runs
from tests.services.endpoint import Endpoint

LIMIT_SECONDS = 240.0
INDEX = {"metadata.labels['apps.kubernetes.io/pod-index']",
         "metadata.annotations['batch.kubernetes.io/job-completion-index']"}  # fmt: skip
# What the image sets, of which only its cache of kernels and its Python differ here.
IMAGE = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class Cluster:
    """What the pods of all workloads share. secrets: name -> key -> value."""

    def __init__(
        self, folder: Path, hosts: Mapping[str, str], secrets: Mapping[str, Mapping[str, str]]
    ) -> None:
        self.folder = folder
        self.secrets = secrets
        ports = free_runs(3, 3)
        own = {f"lookback-{i}.lookback:2100": f"127.0.0.1:{port}" for i, port in enumerate(ports)}
        self.probes = {f"lookback-{i}": port + 2 for i, port in enumerate(ports)}
        self.hosts = {**hosts, **own}
        self.running: dict[str, Pod] = {}

    def start(self, found: list[Object], kind: str, *indexes: int) -> None:
        """Start pods of the only workload of a kind."""
        for index in indexes:
            pod = Pod(self, found, of_kind(found, kind), index)
            self.running[pod.name] = pod

    def until(self, what: str, found: Callable[[], object]) -> None:
        """Wait until `found` is true; no pod may end before."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not found():
            for pod in self.running.values():
                assert pod.process.poll() is None, f"{pod.name} ended before {what}: {pod.said()}"
            assert time.monotonic() < deadline, f"never {what}: {self.said()}"
            time.sleep(0.05)

    def ready(self, *indexes: int) -> None:
        """Wait until the readiness probes of these pods say so."""
        names = [f"lookback-{index}" for index in indexes]
        self.until(
            f"{names} are ready", lambda: all(self.running[name].probe("readinessProbe") for name in names)
        )

    def kill(self, name: str) -> None:
        """Kill a pod as a lost node is lost."""
        pod = self.running.pop(name)
        pod.process.kill()
        pod.process.wait()

    def delete(self, *names: str) -> None:
        """Do what `kubectl delete pod` does, to all at once; each must end well within its grace."""
        pods = [self.running.pop(name) for name in names]
        for pod in pods:
            pod.process.send_signal(signal.SIGTERM)
        for pod in pods:
            assert pod.process.wait(pod.grace_seconds) == 0, pod.said()

    def complete(self) -> None:
        """Wait until all pods have ended well."""
        for name in list(self.running):
            pod = self.running.pop(name)
            assert pod.process.wait(LIMIT_SECONDS) == 0, pod.said()

    def said(self) -> str:
        """Return what all pods have said."""
        return "\n".join(f"{pod.name}: {pod.said()}" for pod in self.running.values())

    def end(self) -> None:
        """Leave nothing behind."""
        for pod in self.running.values():
            pod.process.kill()
            pod.process.wait()


class Pod:
    """One pod of a workload."""

    def __init__(self, cluster: Cluster, found: list[Object], workload: Object, index: int) -> None:
        self._cluster = cluster
        self._found = found
        self._spec: Object = workload["spec"]["template"]["spec"]
        (self._container,) = self._spec["containers"]
        self._index = index
        self.name = f"{workload['metadata']['name']}-{index}"
        self.grace_seconds: int = self._spec.get("terminationGracePeriodSeconds", 30)
        self._folder = cluster.folder / self.name
        self._folder.mkdir(exist_ok=True)
        self._mounts: dict[str, Path] = {}
        for mount in self._container["volumeMounts"]:
            self._mounts[mount["mountPath"]] = self._volume(mount["name"])
        for mount in self._container["volumeMounts"]:
            if mount.get("readOnly"):
                self._translate_files(self._mounts[mount["mountPath"]])
        environment = self._environment()
        arguments = [self._here(_expand(one, environment)) for one in self._container["args"]]
        self._log = self._folder / "said"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dataflows.cli", *arguments],
                env={**IMAGE, "TMPDIR": str(self._mounts["/tmp"]), **self._translated(environment)},
                cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        """Return what it has said."""
        return self._log.read_text()

    def probe(self, which: str) -> bool:
        """Ask as the kubelet does; whether the answer is well."""
        wanted = self._container[which]["httpGet"]
        ports = {one["name"]: one["containerPort"] for one in self._container["ports"]}
        assert ports[wanted["port"]] == 9464
        try:
            status, _ = Endpoint(f"http://127.0.0.1:{self._cluster.probes[self.name]}").get(wanted["path"])
        except OSError:
            return False  # it does not listen yet
        return status == 200

    # --- translation -------------------------------------------------------------------------------------

    def _volume(self, name: str) -> Path:
        """Return the folder of a volume."""
        volume: Object = next((one for one in self._spec["volumes"] if one["name"] == name), {"claim": name})
        if "claim" in volume or "persistentVolumeClaim" in volume:
            claim: str = volume.get("persistentVolumeClaim", {}).get("claimName", f"{name}-{self.name}")
            path = self._cluster.folder.joinpath("claims", claim)
            path.mkdir(parents=True, exist_ok=True)
            return path
        path = self._folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        files: Mapping[str, str] = {}
        if "configMap" in volume:
            files = self._config(volume["configMap"]["name"])
        elif "secret" in volume:
            files = self._cluster.secrets.get(volume["secret"]["secretName"], {})
        for key, text in files.items():
            (path / key).write_text(text)
        return path

    def _translate_files(self, folder: Path) -> None:
        for path in folder.iterdir():
            path.write_text(self._here(path.read_text()))
            path.chmod(0o444)

    def _config(self, name: str) -> Mapping[str, str]:
        (one,) = (
            one for one in self._found if one["kind"] == "ConfigMap" and one["metadata"]["name"] == name
        )
        data: Mapping[str, str] = one["data"]
        return data

    def _environment(self) -> dict[str, str]:
        """Return the container's environment as the kubelet makes it."""
        found: dict[str, str] = {}
        for source in self._container["envFrom"]:
            found |= self._config(source["configMapRef"]["name"])
        for entry in self._container["env"]:
            value = self._value(entry["valueFrom"])
            if value is not None:
                found[entry["name"]] = value
        return found

    def _value(self, source: Mapping[str, Any]) -> str | None:
        if "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] in INDEX
            return str(self._index)
        wanted = source["secretKeyRef"]
        value = self._cluster.secrets.get(wanted["name"], {}).get(wanted["key"])
        assert value is not None or wanted.get("optional")
        return value

    def _translated(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {name: self._here(value) for name, value in environment.items()}

    def _here(self, text: str) -> str:
        """Return a text with the paths and addresses that hold on this machine."""
        if self.name in self._cluster.probes:
            text = text.replace("0.0.0.0:9464", f"127.0.0.1:{self._cluster.probes[self.name]}")
        for there, here in self._cluster.hosts.items():
            text = text.replace(there, here)
        # In one pass: a folder of this machine may lie at a path that is another mount's.
        paths = "|".join(sorted(map(re.escape, self._mounts), reverse=True))
        return re.sub(
            rf"(?<![\w.-])({paths})(?=/|$)", lambda m: str(self._mounts[m[1]]), text, flags=re.MULTILINE
        )


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """Return an argument with $(NAME) replaced, as the kubelet does; one that names nothing stays."""
    return re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[0]), text)
