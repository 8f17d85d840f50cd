"""Only unchanged model files that were signed with the right key are accepted."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_model import tiny_model, with_manifest
from twincar_edge.bundled import demo_model
from twincar_edge.cli import main
from twincar_edge.errors import InputError, ModelError
from twincar_edge.files import sha256
from twincar_edge.images import write_image
from twincar_edge.model_file import read_model_file
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.signatures import make_key_pair, require_signature, signed
from twincar_edge.trust import Trust


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key_pair(tmp_path / "box.key")
    return tmp_path / "box.key"


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_name("box.key.pub")


@pytest.fixture
def model(key: Path, tmp_path: Path) -> Path:
    path = tiny_model(tmp_path / "signed.onnx")
    path.write_bytes(signed(path.read_bytes(), key, str(path)))
    return path


def test_a_signed_model_opens_and_keeps_its_contents(model: Path, public: Path, tmp_path: Path) -> None:
    plain = read_model_file(tiny_model(tmp_path / "plain.onnx"))
    file = read_model_file(model)
    require_signature(file, public)
    assert file.digest == plain.digest and file.metadata == plain.metadata and file.data.startswith(plain.data)
    session = open_session(model, ep="cpu", trust=Trust(sha256(model), public))
    assert session.sha256 == sha256(model)


def test_signing_again_replaces_the_signature(model: Path, key: Path, public: Path, tmp_path: Path) -> None:
    once = model.read_bytes()
    assert signed(once, key, "the file") == once  # Ed25519 has no randomness
    make_key_pair(tmp_path / "other.key")
    model.write_bytes(signed(once, tmp_path / "other.key", "the file"))
    require_signature(read_model_file(model), tmp_path / "other.key.pub")
    with pytest.raises(ModelError, match=r"is not signed with the private key of .*box\.key\.pub"):
        require_signature(read_model_file(model), public)


def test_unsigned_changed_and_bundled_models_are_refused(model: Path, public: Path, tmp_path: Path) -> None:
    trust = Trust(public_key=public)
    for path in (demo_model(), tiny_model(tmp_path / "old.onnx", digest=False), with_manifest(model, model, name="x")):
        with pytest.raises(ModelError, match="is not signed: sign it with `twincar-edge sign`"):
            open_session(path, ep="cpu", trust=trust)


def test_the_signature_of_another_model_is_refused(model: Path, public: Path, tmp_path: Path) -> None:
    signature = model.read_bytes()[len(tiny_model(tmp_path / "plain.onnx").read_bytes()) :]
    other = tiny_model(tmp_path / "other.onnx", temperature=50.0)
    other.write_bytes(other.read_bytes() + signature)
    assert read_model_file(other).signature is not None
    with pytest.raises(ModelError, match="is not signed with the private key"):
        open_session(other, ep="cpu", trust=Trust(public_key=public))


def test_a_private_key_has_mode_600_and_is_never_overwritten(key: Path, public: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="keys are never overwritten"):
        make_key_pair(key)
    key.unlink()
    with pytest.raises(InputError, match=r"box\.key\.pub exists"):
        make_key_pair(key)


def test_an_invalid_key_is_an_input_error(model: Path, key: Path, public: Path, tmp_path: Path) -> None:
    (tmp_path / "rsa.pub").write_bytes(
        subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, check=True).stdout
    )
    rsa = subprocess.run(
        ["openssl", "rsa", "-in", str(tmp_path / "rsa.pub"), "-pubout"], capture_output=True, check=True
    ).stdout
    (tmp_path / "rsa.pub").write_bytes(rsa)
    cases = {
        model: "is not an unencrypted public key",
        key: "is not an unencrypted public key",
        tmp_path / "none.pub": "cannot read the public key",
        tmp_path / "rsa.pub": "is not an Ed25519 key",
    }
    for path, message in cases.items():
        with pytest.raises(InputError, match=message):
            require_signature(read_model_file(model), path)
    with pytest.raises(InputError, match="is not an unencrypted private key"):
        signed(model.read_bytes(), public, "the file")


def test_the_command_line_makes_keys_signs_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        assert isinstance(caught.value.code, int)
        return caught.value.code

    key, plain, model = tmp_path / "k.key", tiny_model(tmp_path / "plain.onnx"), tmp_path / "signed.onnx"
    assert run("sign", "--new-key", key) == 0
    assert run("sign", plain, "--key", key, "-o", model) == 0
    assert f"wrote {model}: signed, sha256 {sha256(model)}\n" in capsys.readouterr().out
    write_image(tmp_path / "car.png", np.zeros((40, 40, 3), np.uint8))
    watch = ("watch", tmp_path / "car.png", "--store", "none", "--ep", "cpu", "--state", tmp_path / "state")
    assert run(*watch, "--model", plain, "--require-signature", f"{key}.pub") == 2
    assert capsys.readouterr().err.startswith(f"error: {plain} is not signed")
    assert run(*watch, "--model", model, "--model-sha256", "0" * 64) == 2
    assert "not that of --model-sha256" in capsys.readouterr().err
    assert run("sign", plain) == 2
    assert run("sign", plain, "--key", key, "--new-key", key) == 2
