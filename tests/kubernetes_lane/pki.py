"""A certificate authority, certificates and kubeconfigs for a cluster on loopback, made with openssl(1) in a second."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

_CLIENT = "extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\n"
_SERVER = "extendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\nsubjectAltName="
_NAMES = "IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
#: Who speaks to the API server -> as whom.
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "kcm": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "node": "/O=system:nodes/CN=system:node:127.0.0.1",
}


def make(folder: Path, server: str) -> None:
    """Make everything in ``folder``, with kubeconfigs ``NAME.conf`` that name the API server's address ``server``."""
    folder.mkdir(mode=0o700)
    _key(folder, "ca")
    strict = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-addext", "basicConstraints=critical,CA:TRUE"]
    _openssl(
        folder,
        "req",
        "-x509",
        "-new",
        "-key",
        "ca.key",
        "-subj",
        "/CN=lane-ca",
        "-days",
        "3650",
        *strict,
        "-out",
        "ca.crt",
    )
    _certificate(folder, "apiserver", "/CN=kube-apiserver", _SERVER + _NAMES)
    _certificate(folder, "kubelet-server", "/CN=127.0.0.1", _SERVER + "IP:127.0.0.1,DNS:localhost")
    _certificate(folder, "kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client", _CLIENT)
    for name, subject in CLIENTS.items():
        _certificate(folder, name, subject, _CLIENT)
        user = {
            "client-certificate-data": _text(folder / f"{name}.crt"),
            "client-key-data": _text(folder / f"{name}.key"),
        }
        (folder / f"{name}.conf").write_text(kubeconfig(folder, server, user))
    _key(folder, "sa")
    _openssl(folder, "ec", "-in", "sa.key", "-pubout", "-out", "sa.pub")


def kubeconfig(folder: Path, server: str, user: dict[str, str], namespace: str = "default") -> str:
    """Give a kubeconfig with one context, ``lane``."""
    cluster = {"server": server, "certificate-authority-data": _text(folder / "ca.crt")}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lane",
            "clusters": [{"name": "lane", "cluster": cluster}],
            "users": [{"name": "lane", "user": user}],
            "contexts": [{"name": "lane", "context": {"cluster": "lane", "user": "lane", "namespace": namespace}}],
        }
    )


def _key(folder: Path, name: str) -> None:
    _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")


def _certificate(folder: Path, name: str, subject: str, extensions: str) -> None:
    _key(folder, name)
    (folder / f"{name}.ext").write_text(extensions)
    _openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr")
    issuer = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3650", "-extfile", f"{name}.ext"]
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *issuer, "-out", f"{name}.crt")


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, capture_output=True, timeout=30, check=True)


def _text(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
