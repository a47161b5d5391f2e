"""Downloads from a server on the loopback: cached, checked, and one sentence when they fail."""

import gzip
import hashlib
import http.server
import io
import pickle
import subprocess
import sys
import tarfile
import threading

import attrs
import numpy as np
import pytest
from test_data_mnist import ARRAYS, idx

from sparsecore.data import cifar, mnist
from sparsecore.data.files import Origin
from sparsecore.errors import InputError


@attrs.define
class Site:
    """A web site of files in memory, and the paths that were asked for."""

    files: dict[str, bytes]
    url: str = ""
    asked: list[str] = attrs.Factory(list)

    def origin(self, name="there"):
        return Origin(name, self.url, {k: f"md5:{hashlib.md5(v).hexdigest()}" for k, v in self.files.items()})


@pytest.fixture
def site(monkeypatch, tmp_path):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site({"file.gz": b"content"})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/")
            site.asked.append(name)
            content = site.files.get(name)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}/"
        yield site
        server.shutdown()
        thread.join()


def test_an_archive_is_downloaded_once_and_nothing_is_printed(site, tmp_path, capfd):
    origin = site.origin()
    first, second = origin.fetch("file.gz"), origin.fetch("file.gz")
    assert first == second
    assert first.read_bytes() == b"content"
    assert first.is_relative_to(tmp_path / "cache" / "sparsecore")
    assert site.asked == ["file.gz"]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_the_progress(site, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    site.origin().fetch("file.gz")
    out, err = capsys.readouterr()
    assert out == ""
    assert "7.00/7.00" in err


def test_archives_of_the_same_name_do_not_collide_in_the_cache(site):
    one = site.origin("one").fetch("file.gz")
    site.files["file.gz"] = b"another"
    other = site.origin("other").fetch("file.gz")
    assert (one.read_bytes(), other.read_bytes()) == (b"content", b"another")


def test_a_damaged_archive_in_the_cache_is_downloaded_again(site):
    origin = site.origin()
    origin.fetch("file.gz").write_bytes(b"damaged")
    assert origin.fetch("file.gz").read_bytes() == b"content"


def test_an_archive_with_another_checksum_is_refused_and_not_kept(site, tmp_path):
    origin = site.origin()
    site.files["file.gz"] = b"forged"
    with pytest.raises(InputError, match=r"127.*file\.gz could not be downloaded: its checksum .*--data-dir"):
        origin.fetch("file.gz")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_failed_download_raises_one_error_sentence_with_url_and_remedy(site):
    origin = site.origin()
    del site.files["file.gz"]
    with pytest.raises(InputError, match=r"file\.gz could not be downloaded: 404 .*--data-dir"):
        origin.fetch("file.gz")
    unreachable = attrs.evolve(origin, base="http://127.0.0.1:9/")
    with pytest.raises(
        InputError, match=r"^http://127\.0\.0\.1:9/file\.gz .* there is no connection; .*--data-dir"
    ) as e:
        unreachable.fetch("file.gz")
    assert "\n" not in str(e.value)


def test_an_unwritable_cache_raises_one_error_sentence(site, tmp_path):
    (tmp_path / "cache").write_text("a file in the place of the cache folder")
    with pytest.raises(InputError, match=r"file\.gz could not be downloaded: .*cache.*--data-dir"):
        site.origin().fetch("file.gz")


def test_mnist_without_a_folder_is_downloaded(site, monkeypatch):
    site.files = {f"{name}.gz": gzip.compress(idx(array)) for name, array in ARRAYS.items()}
    monkeypatch.setattr(mnist, "_MNIST", site.origin("MNIST"))
    images = mnist.Mnist().load(None)
    np.testing.assert_array_equal(images.train.images[..., 0], ARRAYS["train-images-idx3-ubyte"])
    assert sorted(site.asked) == sorted(site.files)


def test_cifar_without_a_folder_is_downloaded(site, monkeypatch):
    content = io.BytesIO()
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    batch = pickle.dumps({b"data": data, b"fine_labels": [99, 0]})
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name in ("train", "test"):
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(batch)
            tar.addfile(member, io.BytesIO(batch))
    site.files = {"cifar-100-python.tar.gz": content.getvalue()}
    monkeypatch.setattr(cifar, "_CIFAR100", attrs.evolve(cifar._CIFAR100, origin=site.origin("CIFAR")))
    images = cifar.Cifar100().load(None)
    np.testing.assert_array_equal(images.test.images[1, 3, 5], data[1].reshape(3, 32, 32)[:, 3, 5])
    np.testing.assert_array_equal(images.train.labels, [99, 0])


def test_every_published_archive_has_a_checksum():
    for origin in (mnist._MNIST, mnist._FASHION_MNIST, cifar._CIFAR10.origin, cifar._CIFAR100.origin):
        assert all(len(checksum) == len("md5:") + 32 for checksum in origin.checksums.values())
    assert set(mnist._MNIST.checksums) == set(mnist._FASHION_MNIST.checksums) == {f"{name}.gz" for name in ARRAYS}
    for edition in (cifar._CIFAR10, cifar._CIFAR100):
        assert edition.archive in edition.origin.checksums


@pytest.mark.integration
def test_importing_the_data_sets_imports_nothing_heavy():
    script = """if True:
        import sys
        import sparsecore.data.cifar, sparsecore.data.digits, sparsecore.data.mnist, sparsecore.data.npz
        print(*sorted({"sklearn", "scipy", "pooch", "requests", "tqdm", "torch"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
