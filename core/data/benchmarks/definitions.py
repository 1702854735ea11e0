"""The fifteen datasets: the location of their files, their layout, and their published counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BenchmarkKind = Literal["class_folders", "lists", "imagenet", "variant"]

PLAIN_TEMPLATE = "a photo of a {}."


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCounts:
    """Published numbers of classes and images. ``val`` None: the validation list is the test list,
    or there is none.
    """

    classes: int
    train: int
    val: int | None
    test: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Where a dataset is and how it is read.

    ``folder`` is relative to the data root, everything else to ``folder``. Item paths are relative
    to ``images``, the image folder ("" is ``folder`` itself). ``annotations`` are the files that
    are read if there is no ``split_file`` (always, for a dataset that never has one). ``renames``
    gives class names that differ from their folders when a split is created, and ``ignored`` the
    class folders left out then. ``also_called`` are other common names of ``folder`` or the image
    folder after unpacking, for the error message.
    """

    name: str
    folder: str
    images: str
    kind: BenchmarkKind
    counts: PublishedCounts
    template: str = PLAIN_TEMPLATE
    split_file: str | None = None
    annotations: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    also_called: tuple[str, ...] = ()

    @property
    def image_folder(self) -> str:
        """The image folder, relative to the data root."""
        return f"{self.folder}/{self.images}" if self.images else self.folder


_WNIDS = ("classnames.txt",)

_ROWS = (
    Benchmark(
        name="imagenet",
        folder="imagenet",
        images="images",
        kind="imagenet",
        annotations=_WNIDS,
        also_called=("ILSVRC2012", "imagenet-1k", "ImageNet"),
        counts=PublishedCounts(classes=1000, train=1_281_167, val=None, test=50_000),
    ),
    Benchmark(
        name="caltech101",
        folder="caltech-101",
        images="101_ObjectCategories",
        kind="class_folders",
        split_file="split_zhou_Caltech101.json",
        renames={
            "airplanes": "airplane",
            "Faces": "face",
            "Leopards": "leopard",
            "Motorbikes": "motorbike",
        },
        ignored=frozenset({"BACKGROUND_Google", "Faces_easy"}),
        also_called=("caltech101", "Caltech101"),
        counts=PublishedCounts(classes=100, train=4128, val=1649, test=2465),
    ),
    Benchmark(
        name="oxford_pets",
        folder="oxford_pets",
        images="images",
        kind="lists",
        template="a photo of a {}, a type of pet.",
        split_file="split_zhou_OxfordPets.json",
        annotations=("annotations/trainval.txt", "annotations/test.txt"),
        also_called=("oxford-iiit-pet", "OxfordPets"),
        counts=PublishedCounts(classes=37, train=2944, val=736, test=3669),
    ),
    Benchmark(
        name="stanford_cars",
        folder="stanford_cars",
        images="",
        kind="lists",
        split_file="split_zhou_StanfordCars.json",
        annotations=(
            "devkit/cars_train_annos.mat",
            "cars_test_annos_withlabels.mat",
            "devkit/cars_meta.mat",
        ),
        also_called=("StanfordCars", "cars"),
        counts=PublishedCounts(classes=196, train=6509, val=1635, test=8041),
    ),
    Benchmark(
        name="oxford_flowers",
        folder="oxford_flowers",
        images="jpg",
        kind="lists",
        template="a photo of a {}, a type of flower.",
        split_file="split_zhou_OxfordFlowers.json",
        annotations=("imagelabels.mat", "cat_to_name.json"),
        also_called=("flowers-102", "oxford-flowers102", "OxfordFlowers"),
        counts=PublishedCounts(classes=102, train=4093, val=1633, test=2463),
    ),
    Benchmark(
        name="food101",
        folder="food-101",
        images="images",
        kind="class_folders",
        template="a photo of {}, a type of food.",
        split_file="split_zhou_Food101.json",
        also_called=("food101", "Food101"),
        counts=PublishedCounts(classes=101, train=50_500, val=20_200, test=30_300),
    ),
    Benchmark(
        name="fgvc_aircraft",
        folder="fgvc_aircraft",
        images="images",
        kind="lists",
        template="a photo of a {}, a type of aircraft.",
        annotations=(
            "variants.txt",
            "images_variant_train.txt",
            "images_variant_val.txt",
            "images_variant_test.txt",
        ),
        also_called=("fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b"),
        counts=PublishedCounts(classes=100, train=3334, val=3333, test=3333),
    ),
    Benchmark(
        name="sun397",
        folder="sun397",
        images="SUN397",
        kind="lists",
        split_file="split_zhou_SUN397.json",
        annotations=("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
        also_called=("SUN397",),
        counts=PublishedCounts(classes=397, train=15_880, val=3970, test=19_850),
    ),
    Benchmark(
        name="dtd",
        folder="dtd",
        images="images",
        kind="class_folders",
        template="{} texture.",
        split_file="split_zhou_DescribableTextures.json",
        also_called=("DTD", "dtd-r1.0.1"),
        counts=PublishedCounts(classes=47, train=2820, val=1128, test=1692),
    ),
    Benchmark(
        name="eurosat",
        folder="eurosat",
        images="2750",
        kind="class_folders",
        template="a centered satellite photo of {}.",
        split_file="split_zhou_EuroSAT.json",
        renames={
            "AnnualCrop": "Annual Crop Land",
            "HerbaceousVegetation": "Herbaceous Vegetation Land",
            "Highway": "Highway or Road",
            "Industrial": "Industrial Buildings",
            "Pasture": "Pasture Land",
            "PermanentCrop": "Permanent Crop Land",
            "Residential": "Residential Buildings",
            "SeaLake": "Sea or Lake",
        },
        also_called=("EuroSAT", "EuroSAT_RGB"),
        counts=PublishedCounts(classes=10, train=13_500, val=5400, test=8100),
    ),
    Benchmark(
        name="ucf101",
        folder="ucf101",
        images="UCF-101-midframes",
        kind="lists",
        template="a photo of a person doing {}.",
        split_file="split_zhou_UCF101.json",
        annotations=(
            "ucfTrainTestlist/classInd.txt",
            "ucfTrainTestlist/trainlist01.txt",
            "ucfTrainTestlist/testlist01.txt",
        ),
        also_called=("UCF101", "UCF-101"),
        counts=PublishedCounts(classes=101, train=7639, val=1898, test=3783),
    ),
    Benchmark(
        name="imagenetv2",
        folder="imagenetv2",
        images="imagenetv2-matched-frequency-format-val",
        kind="variant",
        annotations=_WNIDS,
        also_called=("imagenetv2-matched-frequency", "imagenet-v2"),
        counts=PublishedCounts(classes=1000, train=10_000, val=None, test=10_000),
    ),
    Benchmark(
        name="imagenet_sketch",
        folder="imagenet-sketch",
        images="images",
        kind="variant",
        annotations=_WNIDS,
        also_called=("sketch", "imagenet_sketch", "ImageNet-Sketch"),
        counts=PublishedCounts(classes=1000, train=50_889, val=None, test=50_889),
    ),
    Benchmark(
        name="imagenet_a",
        folder="imagenet-adversarial",
        images="imagenet-a",
        kind="variant",
        annotations=_WNIDS,
        also_called=("imagenet_a", "imagenet-a"),
        counts=PublishedCounts(classes=200, train=7500, val=None, test=7500),
    ),
    Benchmark(
        name="imagenet_r",
        folder="imagenet-rendition",
        images="imagenet-r",
        kind="variant",
        annotations=_WNIDS,
        also_called=("imagenet_r", "imagenet-r"),
        counts=PublishedCounts(classes=200, train=30_000, val=None, test=30_000),
    ),
)

BENCHMARKS: dict[str, Benchmark] = {row.name: row for row in _ROWS}
