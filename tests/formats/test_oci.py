"""OCI layouts: one image, every blob what its digest says, layers seen as they are unpacked."""

from contextlib import suppress

import pytest
from formats.ocis import MANIFEST, blob, layout
from formats.test_tar import archive
from hypothesis import given
from hypothesis import strategies as st

from tallystick.core.errors import Malformed, NotGenuine, TallystickError, Unsupported
from tallystick.formats import oci

FILES = [("bin", 0o40755, b""), ("bin/sh", 0o100755, b"#!x")]


def test_a_layout_gives_its_layers_and_its_other_files():
    found = oci.read(layout(FILES, extra=[("planted", 0o100644, b"x")]))
    assert [entry.path for entry in oci.entries(found)] == ["bin", "bin/sh"]
    others = dict(found.others)
    assert {"index.json", "oci-layout", "planted"} <= set(others)
    assert len(others) == 5  # with manifest and configuration
    assert len(found.layers) == 1


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (archive(FILES), Malformed, "oci-layout: want a file of the layout, got none"),
        (layout(FILES, version={"imageLayoutVersion": "2"}), Unsupported, "imageLayoutVersion: want 1.0.0"),
        (layout(FILES, version=[]), Malformed, "want an object, got list"),
        (layout(FILES, index={"manifests": []}), Unsupported, "want one image, got 0"),
        (layout(FILES, index={"manifests": [1]}), Malformed, "manifests: want a list of objects"),
        (layout(FILES, index={"manifests": [{"mediaType": "x"}]}), Unsupported, f"want {MANIFEST}"),
        (
            layout(FILES, index={"manifests": [{"mediaType": MANIFEST, "digest": "md5:00"}]}),
            Unsupported,
            "want sha256:<64 hex digits>",
        ),
        (
            layout(FILES, index={"manifests": [blob(b"absent", MANIFEST)[1]]}),
            Malformed,
            "want a file of the layout",
        ),
        (layout(FILES, manifest={"layers": []}), Unsupported, "mediaType: want"),
        (layout(FILES, layer_type="application/vnd.oci.image.layer.v1.tar+gzip"), Unsupported, "+gzip"),
        (layout(FILES, extra=[("index.json", 0o100644, b"{}")]), Malformed, "want each file once"),
        (layout([("bin/.wh.sh", 0o100644, b"")]), Unsupported, "got a whiteout"),
    ],
)
def test_what_is_not_one_plain_image_is_refused_by_name(data, error, said):
    with pytest.raises(error) as caught:
        list(oci.entries(oci.read(data)))
    assert said in str(caught.value)


def test_a_blob_that_is_not_its_digest_is_not_genuine():
    data = layout(FILES)
    changed = data.replace(b"#!x", b"#!y")
    with pytest.raises(NotGenuine, match="OCI layout: blob: want"):
        oci.read(changed)
    (_, _, content), descriptor = blob(b"{}", MANIFEST)
    lying = {**descriptor, "size": len(content) + 1}
    with pytest.raises(Malformed, match="size of"):
        oci.read(layout(FILES, index={"manifests": [lying]}))


@given(st.binary(max_size=600), st.integers(0, 4000), st.binary(min_size=1, max_size=8))
def test_arbitrary_bytes_never_crash_the_reader(data, at, put):
    nearly = bytearray(layout(FILES))
    nearly[at : at + len(put)] = put
    for case in (data, bytes(nearly)):
        with suppress(TallystickError):
            list(oci.entries(oci.read(case)))
