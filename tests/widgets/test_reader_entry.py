"""What napari calls: reading gives a layer that knows its scan, saving gives a mask on its grid."""

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from napari.utils.colormaps import DirectLabelColormap
from npe2 import PluginManager
from PIL import Image

from napari_grata.scans import ScanError
from napari_grata.scans.samples import list_samples
from napari_grata.widgets import reader
from napari_grata.widgets.reader import get_reader, read, write_labels

OBLIQUE = np.array(
    [[-0.9, 0.1, 0.05, 40], [0.1, 1.1, -0.2, -30], [0.0, 0.2, 2.4, 12], [0, 0, 0, 1]]
)
STORED = np.random.default_rng(0).integers(1, 900, (6, 7, 8)).astype(np.int16)


@pytest.fixture
def volume(tmp_path):
    nib.save(nib.Nifti1Image(STORED, OBLIQUE), tmp_path / "case.nii.gz")
    return tmp_path / "case.nii.gz"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "centre"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", (9, 13, 3)), ("b", (11, 8, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def viewer():
    # Readers are found through the installed manifest, as in a napari that a person started.
    PluginManager.instance().discover()
    return ViewerModel()


def labels_layer(scan_layer):
    scan = scan_layer.metadata["napari_grata"]["scan"]
    return Labels(scan.empty_mask(), **scan.mask_layer_kwargs())


def test_only_volumes_that_napari_cannot_read_are_ours(tmp_path, folder):
    for name in ("a.nii", "A.NII.GZ", ["a.nii", "b.nii"], "IM1.dcm"):
        assert get_reader(name) is not None
    for name in ("a.gz", "a.png", "a.npy", "a.nii.txt", "nii", "", [], ["a.nii", "b.png"]):
        assert get_reader(name) is None
    assert get_reader(str(folder)) is None


def test_napari_need_not_ask_who_opens_a_photograph(viewer, folder):
    readers = PluginManager.instance().iter_compatible_readers
    for path in (folder, folder / "a.png", folder / "a.jpg", folder / "a.tif"):
        assert "napari-grata" not in {reader.plugin_name for reader in readers([str(path)])}
    for name in ("a.nii", "a.nii.gz"):
        assert "napari-grata" in {reader.plugin_name for reader in readers([name])}


def test_an_opened_volume_is_a_layer_with_geometry(viewer, volume):
    (layer,) = viewer.open(volume, plugin="napari-grata")
    assert isinstance(layer, ImageLayer)
    assert layer.name == "case"
    sizes = nib.affines.voxel_sizes(OBLIQUE)
    assert layer.scale == pytest.approx(sizes[::-1], rel=1e-5)
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    assert viewer.dims.axis_labels == ("superior", "posterior", "left")
    assert np.array_equal(layer.metadata["affine"], nib.load(volume).affine)
    assert layer.metadata["napari_grata"]["scan"].path == volume
    # The oblique affine is not the layer's own: napari could not slice it in 2-D.
    assert np.array_equal(layer.affine.affine_matrix, np.eye(4))


def test_a_broken_file_raises_words_and_leaves_no_layer(viewer, volume):
    volume.write_bytes(volume.read_bytes()[:300])
    with pytest.raises(Exception, match=r"case\.nii\.gz.*(cut short|cannot be read)"):
        viewer.open(volume, plugin="napari-grata")
    assert len(viewer.layers) == 0
    with pytest.raises(ScanError, match="export it again"):
        get_reader(str(volume))(str(volume))


def test_a_folder_of_photographs_is_one_layer(folder):
    ((data, arguments, kind),) = read(str(folder))
    layer = Layer.create(data, arguments, kind)
    assert layer.rgb
    assert layer.data.shape == (2, 11, 13, 3)
    assert layer.name == "centre"


def test_saving_labels_gives_a_mask_on_the_grid_of_the_file(viewer, volume, tmp_path):
    (scan_layer,) = viewer.open(volume, plugin="napari-grata")
    layer = labels_layer(scan_layer)
    layer.data[2, 3, 4] = 2
    data, attributes, _ = layer.as_layer_data_tuple()
    (path,) = write_labels(str(tmp_path / "mask.nii.gz"), data, attributes)
    mask = nib.load(path)
    assert np.array_equal(mask.affine, nib.load(volume).affine)
    assert mask.shape == STORED.shape
    scan = scan_layer.metadata["napari_grata"]["scan"]
    assert np.asanyarray(mask.dataobj)[scan.geometry.source_index((2, 3, 4))] == 2
    assert np.count_nonzero(np.asanyarray(mask.dataobj)) == 1


def test_a_duplicated_labels_layer_still_knows_its_scan(viewer, volume, tmp_path):
    (scan_layer,) = viewer.open(volume, plugin="napari-grata")
    twin = Layer.create(*labels_layer(scan_layer).as_layer_data_tuple())
    data, attributes, _ = twin.as_layer_data_tuple()
    assert write_labels(str(tmp_path / "twin.nii.gz"), data, attributes)


def test_saved_photograph_masks_have_the_layers_colours(folder, tmp_path):
    ((data, arguments, kind),) = read(str(folder))
    layer = labels_layer(Layer.create(data, arguments, kind))
    layer.colormap = DirectLabelColormap(color_dict={None: "gray", 0: "transparent", 1: "#E69F00"})
    layer.data[1, 2, 3] = 1
    paths = write_labels(str(tmp_path / "masks.png"), *layer.as_layer_data_tuple()[:2])
    assert [p.rsplit("/", 2)[1:] for p in paths] == [["masks", f"case-000{k}.png"] for k in (1, 2)]
    with Image.open(paths[1]) as mask:
        assert mask.size == (8, 11)
        assert mask.getpixel((3, 2)) == 1
        assert mask.getpalette()[3:6] == [0xE6, 0x9F, 0x00]


def test_masks_never_replace_the_photographs_themselves(folder):
    ((data, arguments, kind),) = read(str(folder))
    layer = labels_layer(Layer.create(data, arguments, kind))
    before = (folder / "a.png").read_bytes()
    with pytest.raises(ScanError, match="the photographs themselves"):
        write_labels(f"{folder}.png", *layer.as_layer_data_tuple()[:2])
    assert (folder / "a.png").read_bytes() == before


def test_labels_without_a_scan_are_refused_with_words(tmp_path):
    layer = Labels(np.ones((4, 4), np.uint8), name="drawn")
    with pytest.raises(ScanError, match="drawn: this layer does not know the scan"):
        write_labels(str(tmp_path / "mask.png"), *layer.as_layer_data_tuple()[:2])


def test_every_sample_has_its_function():
    for sample in list_samples():
        ((data, arguments, kind),) = getattr(reader, sample.key.replace("-", "_"))()
        layer = Layer.create(data, arguments, kind)
        assert layer.name == sample.title
        assert layer.metadata["napari_grata"]["scan"].path == sample.path
