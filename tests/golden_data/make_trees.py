"""Write miniature copies of the fifteen benchmark data sets, in the layout of the real downloads.

    python make_trees.py OUT [--no-splits] [--only caltech101,dtd,...]

Six or seven real class names a set and tiny images. Nothing is drawn from a random generator:
orders and pixels come from SHA-256 of the path, so the same command always writes the same names
and annotation bytes (image bytes follow the Pillow version). With splits (the default) the nine
sets that have a fixed split file get one; with ``--no-splits`` a reader has to create them. Odd
cases: classes with fewer images than shots, labels in no sorted order, shared class names, grey,
CMYK, PNG and GIF content, hidden and stray files, CR LF, slashes, apostrophes and blanks in names.
``expected.json`` was recorded from the published readers (CoOp commit ff61507) over these trees.
"""

import argparse
import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.io import savemat

HERE = Path(__file__).resolve().parent


# ------------------------------------------------------------------ helpers
def digest(text):
    return hashlib.sha256(text.encode("utf-8")).digest()


def shuffled(items, salt):
    """A fixed shuffle: sort by the hash of salt and item."""
    return sorted(items, key=lambda x: digest(f"{salt}|{x}"))


def picture(key, fmt="JPEG", mode=None):
    """A small picture whose size, colours and mode follow from ``key``."""
    d = digest("picture|" + key)
    w, h = 16 + d[0] % 33, 16 + d[1] % 33
    img = Image.new("RGB", (w, h), (d[2], d[3], d[4]))
    pen = ImageDraw.Draw(img)
    for i in range(3):
        b = d[5 + 6 * i : 11 + 6 * i]
        x, y = b[0] % w, b[1] % h
        pen.rectangle(
            [x, y, min(w - 1, x + 3 + b[2] % w), min(h - 1, y + 3 + b[2] % h)],
            fill=(b[3], b[4], b[5]),
        )
    if mode is None:  # some real files are grey or CMYK
        mode = {0: "L", 1: "CMYK"}.get(d[30] % 40, "RGB")
    if fmt != "JPEG":
        mode = "P" if fmt == "GIF" else "RGB"
    buf = io.BytesIO()
    img.convert(mode).save(buf, format=fmt, **({"quality": 70} if fmt == "JPEG" else {}))
    return buf.getvalue()


class Tree:
    """Writes below one folder of the data root."""

    def __init__(self, root, name):
        self.top = Path(root) / name
        self.top.mkdir(parents=True, exist_ok=True)

    def put(self, rel, data):
        p = self.top / rel
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))

    def images(self, rels, **kw):
        for rel in shuffled(rels, "write order"):
            self.put(rel, picture(f"{self.top.name}/{rel}", **kw))

    def mat(self, rel, content):
        buf = io.BytesIO()
        savemat(buf, content)
        raw = bytearray(buf.getvalue())
        raw[:116] = b"MATLAB 5.0 MAT-file, miniature".ljust(116)  # no time stamp
        self.put(rel, bytes(raw))

    def split(self, rel, parts):
        self.put(
            rel,
            json.dumps(
                {k: [list(t) for t in v] for k, v in parts.items()},
                indent=4,
                separators=(",", ": "),
            ),
        )


def cut(files, salt, tail_val=None):
    """One class of a 50/20/30 split.  tail_val shrinks val to that many."""
    order = shuffled(files, salt)
    n_trn, n_val = round(len(order) * 0.5), round(len(order) * 0.2)
    if tail_val is not None:
        n_val = tail_val
    return order[:n_trn], order[n_trn : n_trn + n_val], order[n_trn + n_val :]


def cut_trainval(files, salt, n_val=None):
    order = shuffled(files, salt)
    if n_val is None:
        n_val = round(len(order) * 0.2)
    return order[n_val:], order[:n_val]


def folder_split(classes, label_order, small=None):
    """classes: list of (name shown, [paths relative to the image folder])."""
    parts = {"train": [], "val": [], "test": []}
    for label in label_order:
        name, files = classes[label]
        trn, val, tst = cut(files, "split", 3 if label == small else None)
        for key, chosen in zip(parts, (trn, val, tst), strict=True):
            parts[key] += [(f, label, name) for f in chosen]
    return parts


# ------------------------------------------------------------ class-folder sets
def caltech101(root, splits):
    t = Tree(root, "caltech-101")
    counts = {
        "Faces": 44,
        "Leopards": 41,
        "Motorbikes": 47,
        "accordion": 40,
        "airplanes": 50,
        "water_lilly": 20,
    }
    extra = {"BACKGROUND_Google": 8, "Faces_easy": 20}
    files = {
        c: [f"{c}/image_{i:04d}.jpg" for i in range(1, n + 1)]
        for c, n in {**counts, **extra}.items()
    }
    for c in files:
        t.images([f"101_ObjectCategories/{f}" for f in files[c]])
    t.put("101_ObjectCategories/BACKGROUND_Google/tmp", "")
    t.put("101_ObjectCategories/.DS_Store", "finder")
    t.put("101_ObjectCategories/airplanes/.DS_Store", "finder")
    shown = {
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
        "airplanes": "airplane",
    }
    if splits:
        classes = [(shown.get(c, c), files[c]) for c in sorted(counts)]
        t.split("split_zhou_Caltech101.json", folder_split(classes, range(6), small=5))


def dtd(root, splits):
    t = Tree(root, "dtd")
    counts = {
        "banded": 40,
        "cobwebbed": 41,
        "frilly": 43,
        "polka-dotted": 40,
        "stained": 20,
        "waffled": 45,
        "zigzagged": 42,
    }
    files = {c: [f"{c}/{c}_{4 * i + 2:04d}.jpg" for i in range(n)] for c, n in counts.items()}
    for c in files:
        t.images([f"images/{f}" for f in files[c]])
    t.put("images/waffled/.directory", "[Dolphin]\n")
    t.mat("imdb/imdb.mat", {"meta": np.array([["train", "val", "test"]], dtype=object)})
    names = [f for c in sorted(files) for f in files[c]]
    for k, name in enumerate(("train1", "val1", "test1")):
        t.put(f"labels/{name}.txt", "".join(f + "\n" for f in names[k::3]))
    t.put("labels/labels_joint_anno.txt", "".join(f"{f} {f.split('/')[0]}\n" for f in names))
    if splits:
        classes = [(c, files[c]) for c in sorted(counts)]
        t.split("split_zhou_DescribableTextures.json", folder_split(classes, range(7)))


def eurosat(root, splits):
    t = Tree(root, "eurosat")
    counts = {
        "AnnualCrop": 45,
        "Forest": 40,
        "HerbaceousVegetation": 40,
        "Highway": 35,
        "PermanentCrop": 20,
        "SeaLake": 42,
    }
    files = {c: [f"{c}/{c}_{i}.jpg" for i in range(1, n + 1)] for c, n in counts.items()}
    for c in files:
        t.images([f"2750/{f}" for f in files[c]], mode="RGB")
    shown = {
        "AnnualCrop": "Annual Crop Land",
        "Forest": "Forest",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "PermanentCrop": "Permanent Crop Land",
        "SeaLake": "Sea or Lake",
    }
    if splits:
        classes = [(shown[c], files[c]) for c in sorted(counts)]
        t.split("split_zhou_EuroSAT.json", folder_split(classes, range(6)))


def food101(root, splits):
    t = Tree(root, "food-101")
    counts = {
        "apple_pie": 40,
        "baby_back_ribs": 38,
        "caesar_salad": 36,
        "french_onion_soup": 20,
        "macaroni_and_cheese": 40,
        "waffles": 44,
    }
    files = {
        c: [f"{c}/{int.from_bytes(digest(c + str(i))[:3], 'big') + 1000}.jpg" for i in range(n)]
        for c, n in counts.items()
    }
    for c in files:
        assert len(set(files[c])) == len(files[c])
        t.images([f"images/{f}" for f in files[c]])
    t.put("images/.DS_Store", "finder")
    t.put("README.txt", "miniature\n")
    t.put("license_agreement.txt", "miniature\n")
    t.put("meta/classes.txt", "".join(c + "\n" for c in sorted(counts)))
    t.put(
        "meta/labels.txt", "".join(c.replace("_", " ").capitalize() + "\n" for c in sorted(counts))
    )
    for k, name in enumerate(("train", "test")):
        part = {c: [f[:-4] for f in files[c][k::2]] for c in sorted(counts)}
        t.put(f"meta/{name}.json", json.dumps(part))
        t.put(f"meta/{name}.txt", "".join(f + "\n" for c in part for f in part[c]))
    if splits:
        classes = [(c, files[c]) for c in sorted(counts)]
        t.split("split_zhou_Food101.json", folder_split(classes, range(6)))


# --------------------------------------------------------------- annotated sets
def oxford_pets(root, splits):
    t = Tree(root, "oxford_pets")
    # (file stem, species 1 cat 2 dog, images in trainval, in test); ids follow
    # the alphabet without regard to case, as in the real lists
    breeds = [
        ("Abyssinian", 1, 24, 8),
        ("american_pit_bull_terrier", 2, 22, 7),
        ("basset_hound", 2, 25, 6),
        ("Bengal", 1, 20, 9),
        ("Egyptian_Mau", 1, 22, 7),
        ("shiba_inu", 2, 26, 8),
        ("yorkshire_terrier", 2, 21, 6),
    ]
    lines, seen = {"trainval": [], "test": []}, {1: 0, 2: 0}
    parts = {"train": [], "val": [], "test": []}
    for cid, (stem, species, n_tv, n_te) in enumerate(breeds, 1):
        seen[species] += 1
        names = [f"{stem}_{i}" for i in shuffled(range(1, 10 * (n_tv + n_te), 7), stem)]
        tv, te = names[:n_tv], names[n_tv : n_tv + n_te]
        row = f"{cid} {species} {seen[species]}"
        lines["trainval"] += [f"{n} {row}" for n in tv]
        lines["test"] += [f"{n} {row}" for n in te]
        t.images([f"images/{n}.jpg" for n in tv + te])
        for n in tv[:2]:
            t.put(f"annotations/trimaps/{n}.png", picture("trimap" + n, fmt="PNG"))
            t.put(f"annotations/trimaps/._{n}.png", "resource fork")
            t.put(f"annotations/xmls/{n}.xml", "<annotation/>\n")
        trn, val = cut_trainval(tv, "split", 3 if stem == "Bengal" else None)
        for key, chosen in (("train", trn), ("val", val), ("test", te)):
            parts[key] += [(n + ".jpg", cid - 1, stem.lower()) for n in chosen]
    first_mau = next(n for n in lines["trainval"] if n.startswith("Egyptian_Mau")).split()[0]
    t.put(f"images/{first_mau}.jpg", picture("gif" + first_mau, fmt="GIF"))  # GIF bytes
    t.put("images/Abyssinian_100.mat", "stray file, as in the real archive")
    for key in lines:
        t.put(f"annotations/{key}.txt", "\n".join(lines[key]) + "\n")
    t.put(
        "annotations/list.txt",
        "#Image CLASS-ID SPECIES BREED ID\n" + "\n".join(lines["trainval"] + lines["test"]) + "\n",
    )
    t.put("annotations/README", "miniature\n")
    if splits:
        t.split("split_zhou_OxfordPets.json", parts)


def stanford_cars(root, splits):
    t = Tree(root, "stanford_cars")
    models = [
        "AM General Hummer SUV 2000",
        "Acura TL Type-S 2008",
        "Bugatti Veyron 16.4 Coupe 2009",
        "Ram C/V Cargo Van Minivan 2012",
        "Rolls-Royce Phantom Drophead Coupe Convertible 2012",
        "smart fortwo Convertible 2012",
    ]
    n_train, n_test = [24, 20, 22, 26, 30, 21], [8, 7, 9, 6, 8, 10]

    def annos(counts, salt, with_class=True):
        order = shuffled([(c, i) for c, n in enumerate(counts) for i in range(n)], salt)
        fields = (
            ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]
            + (["class"] if with_class else [])
            + ["fname"]
        )
        arr = np.zeros((1, len(order)), dtype=[(f, object) for f in fields])
        labels = []
        for k, (c, _) in enumerate(order):
            for f, v in zip(fields[:4], (1, 2, 30, 31), strict=True):
                arr[0, k][f] = np.array([[v]], dtype=np.uint8)
            if with_class:
                arr[0, k]["class"] = np.array([[c + 1]], dtype=np.uint8)
            arr[0, k]["fname"] = f"{k + 1:05d}.jpg"
            labels.append(c)
        return arr, labels

    a_trn, l_trn = annos(n_train, "cars train")
    a_tst, l_tst = annos(n_test, "cars test")
    a_no, _ = annos(n_test, "cars test", with_class=False)
    t.images([f"cars_train/{k + 1:05d}.jpg" for k in range(len(l_trn))])
    t.images([f"cars_test/{k + 1:05d}.jpg" for k in range(len(l_tst))])
    t.mat("devkit/cars_train_annos.mat", {"annotations": a_trn})
    t.mat("devkit/cars_test_annos.mat", {"annotations": a_no})
    t.mat("cars_test_annos_withlabels.mat", {"annotations": a_tst})
    t.mat("devkit/cars_meta.mat", {"class_names": np.array([models], dtype=object)})
    t.put("devkit/README.txt", "miniature\n")
    t.put("devkit/train_perfect_preds.txt", "".join(f"{c + 1}\n" for c in l_trn))
    if splits:
        shown = [f"{m.split(' ')[-1]} {' '.join(m.split(' ')[:-1])}" for m in models]
        parts = {"train": [], "val": [], "test": []}
        for c in dict.fromkeys(l_trn):  # classes in order of first appearance
            names = [f"cars_train/{k + 1:05d}.jpg" for k, x in enumerate(l_trn) if x == c]
            trn, val = cut_trainval(names, "split", 3 if c == 1 else None)
            parts["train"] += [(n, c, shown[c]) for n in trn]
            parts["val"] += [(n, c, shown[c]) for n in val]
        parts["test"] = [(f"cars_test/{k + 1:05d}.jpg", c, shown[c]) for k, c in enumerate(l_tst)]
        t.split("split_zhou_StanfordCars.json", parts)


def oxford_flowers(root, splits):
    t = Tree(root, "oxford_flowers")
    names = [
        "pink primrose",
        "hard-leaved pocket orchid",
        "colt's foot",
        "bird of paradise",
        "prince of wales feathers",
        "globe-flower",
    ]
    counts = [41, 40, 36, 20, 45, 38]
    # blocks of labels in no sorted order; class 3 comes in two blocks
    blocks = [(5, 45), (1, 41), (3, 20), (6, 38), (2, 40), (3, 16), (4, 20)]
    labels = [lab for lab, n in blocks for _ in range(n)]
    assert [labels.count(i + 1) for i in range(6)] == counts
    files = [f"image_{k + 1:05d}.jpg" for k in range(len(labels))]
    t.images([f"jpg/{f}" for f in files])
    t.mat("imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    t.put("cat_to_name.json", json.dumps({str(i): names[i - 1] for i in (4, 1, 6, 3, 2, 5)}))
    if splits:
        classes = [
            (names[c], [f for f, lab in zip(files, labels, strict=True) if lab == c + 1])
            for c in range(6)
        ]
        t.split(
            "split_zhou_OxfordFlowers.json",
            folder_split(classes, [c - 1 for c in dict.fromkeys(labels)]),
        )


def fgvc_aircraft(root, splits):
    t = Tree(root, "fgvc_aircraft")
    variants = ["707-320", "Cessna 172", "Embraer Legacy 600", "F-16A/B", "F/A-18", "Yak-42"]
    family = ["Boeing 707", "Cessna 172", "Embraer Legacy 600", "F-16", "F/A-18", "Yak-42"]
    maker = ["Boeing", "Cessna", "Embraer", "Lockheed Martin", "McDonnell Douglas", "Yakovlev"]
    counts = {
        "train": [20, 18, 16, 12, 24, 17],
        "val": [6, 5, 4, 2, 8, 5],
        "test": [7, 9, 6, 8, 7, 10],
    }
    listing = {}
    for part in counts:
        rows = [
            (f"{int.from_bytes(digest(f'{part}{c}.{i}')[:3], 'big') % 2400000:07d}", c)
            for c, n in enumerate(counts[part])
            for i in range(n)
        ]
        # train goes class by class as in the real list, val and test mixed
        listing[part] = rows if part == "train" else shuffled(rows, part)
        t.images([f"images/{i}.jpg" for i, _ in rows])
    ids = [i for rows in listing.values() for i, _ in rows]
    assert len(set(ids)) == len(ids)
    listing["trainval"] = listing["train"] + listing["val"]
    for part, rows in listing.items():
        t.put(f"images_{part}.txt", "".join(i + "\n" for i, _ in rows))
        for level, names in (("variant", variants), ("family", family), ("manufacturer", maker)):
            t.put(f"images_{level}_{part}.txt", "".join(f"{i} {names[c]}\n" for i, c in rows))
    t.put("images_box.txt", "".join(f"{i} 1 2 30 31\n" for i in sorted(ids)))
    for name, rows in (
        ("variants", variants),
        ("families", sorted(family)),
        ("manufacturers", sorted(maker)),
    ):
        t.put(f"{name}.txt", "".join(r + "\n" for r in rows))


def sun397(root, splits):
    t = Tree(root, "sun397")
    places = [
        "/a/abbey",
        "/a/airplane_cabin",
        "/a/apartment_building/outdoor",
        "/b/balcony/exterior",
        "/b/balcony/interior",
        "/c/church/indoor",
        "/y/youth_hostel",
    ]
    n_trn, n_tst = [24, 20, 22, 21, 26, 23, 20], [8, 7, 9, 6, 7, 8, 6]
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows = {"Training_01": [], "Testing_01": []}
    for p, a, b in zip(places, n_trn, n_tst, strict=True):
        names = [
            f"{p}/sun_a{''.join(letters[x % 26] for x in digest(f'{p}{i}')[:15])}.jpg"
            for i in range(a + b)
        ]
        assert len(set(names)) == len(names)
        rows["Training_01"] += names[:a]
        rows["Testing_01"] += names[a:]
        t.images([f"SUN397{n}" for n in names])
    t.put("ClassName.txt", "".join(p + "\n" for p in places))
    for key in rows:
        eol = "\r\n" if key == "Testing_01" else "\n"  # both occur in downloads
        t.put(key + ".txt", "".join(n + eol for n in rows[key]))
        t.put(key.replace("01", "02") + ".txt", "".join(n + "\n" for n in rows[key][::-1]))
    if splits:
        parts = {"train": [], "val": [], "test": []}
        for c, p in enumerate(places):
            shown = " ".join(p.split("/")[2:][::-1])
            own = [n[1:] for n in rows["Training_01"] if os.path.dirname(n) == p]
            trn, val = cut_trainval(own, "split")
            tst = [n[1:] for n in rows["Testing_01"] if os.path.dirname(n) == p]
            for key, chosen in zip(parts, (trn, val, tst), strict=True):
                parts[key] += [(n, c, shown) for n in chosen]
        t.split("split_zhou_SUN397.json", parts)


def ucf101(root, splits):
    t = Tree(root, "ucf101")
    # (name in the lists, name inside the file names, folder name)
    actions = [
        ("ApplyEyeMakeup", "ApplyEyeMakeup", "Apply_Eye_Makeup"),
        ("Basketball", "Basketball", "Basketball"),
        ("CleanAndJerk", "CleanAndJerk", "Clean_And_Jerk"),
        ("HandstandPushups", "HandStandPushups", "Handstand_Pushups"),
        ("Punch", "Punch", "Punch"),
        ("TaiChi", "TaiChi", "Tai_Chi"),
        ("YoYo", "YoYo", "Yo_Yo"),
    ]
    n_clips = [24, 20, 22, 21, 26, 20, 23]
    rows = {"trainlist01": [], "testlist01": []}
    parts = {"train": [], "val": [], "test": []}
    for c, ((listed, inside, folder), n) in enumerate(zip(actions, n_clips, strict=True)):
        trn = [f"v_{inside}_g{8 + i // 2:02d}_c{1 + i % 2:02d}" for i in range(n)]
        tst = [f"v_{inside}_g{1 + i // 2:02d}_c{1 + i % 2:02d}" for i in range(8)]
        rows["trainlist01"] += [f"{listed}/{v}.avi {c + 1}" for v in trn]
        rows["testlist01"] += [f"{listed}/{v}.avi" for v in tst]
        t.images([f"UCF-101-midframes/{folder}/{v}.jpg" for v in trn + tst])
        a, b = cut_trainval([f"{folder}/{v}.jpg" for v in trn], "split")
        for key, chosen in zip(parts, (a, b, [f"{folder}/{v}.jpg" for v in tst]), strict=True):
            parts[key] += [(v, c, folder) for v in chosen]
    t.put(
        "ucfTrainTestlist/classInd.txt", "".join(f"{c + 1} {a[0]}\n" for c, a in enumerate(actions))
    )
    for key in rows:
        t.put(f"ucfTrainTestlist/{key}.txt", "".join(r + "\n" for r in rows[key]))
    if splits:
        t.split("split_zhou_UCF101.json", parts)


# ------------------------------------------------------------------ ImageNet sets
def classnames_txt():
    return (HERE / "imagenet_classnames.txt").read_bytes()


# tench, kite (bird of prey), gossamer-winged butterfly, T-shirt and two classes
# that share the class name "missile"
IMAGENET = ["n01440764", "n01608432", "n02281787", "n03595614", "n03773504", "n04008634"]


def imagenet(root, splits):
    t = Tree(root, "imagenet")
    for wnid, n in zip(IMAGENET, [24, 20, 21, 30, 22, 26], strict=True):
        nums = shuffled(range(3, 9000, 37), wnid)[:n]
        t.images([f"images/train/{wnid}/{wnid}_{i}.JPEG" for i in nums])
    k = 0
    for i in range(6):
        for wnid in IMAGENET:
            if (i, wnid) == (5, "n03595614"):
                continue  # one class has 5 instead of 6
            k += 7
            t.images([f"images/val/{wnid}/ILSVRC2012_val_{k:08d}.JPEG"])
    odd = f"images/val/{IMAGENET[0]}/ILSVRC2012_val_00000007.JPEG"
    t.put(odd, picture("png" + odd, fmt="PNG"))  # PNG bytes under a JPEG name
    t.put("images/train/wget-log.txt", "a plain file beside the class folders\n")
    t.put(f"images/train/{IMAGENET[0]}/.DS_Store", "finder")
    t.put("classnames.txt", classnames_txt())


def imagenetv2(root, splits):
    t = Tree(root, "imagenetv2")
    for label in range(1000):
        n = 10 if label in (0, 7, 99, 657, 744, 999) else 1
        t.images(
            [
                f"imagenetv2-matched-frequency-format-val/{label}/"
                f"{hashlib.sha1(f'v2 {label} {i}'.encode()).hexdigest()}.jpeg"
                for i in range(n)
            ]
        )
    t.put("classnames.txt", classnames_txt())


def imagenet_sketch(root, splits):
    t = Tree(root, "imagenet-sketch")
    for wnid, n in zip(IMAGENET, [20, 21, 22, 20, 24, 20], strict=True):
        t.images([f"images/{wnid}/sketch_{i}.JPEG" for i in range(n)])
    t.put("classnames.txt", classnames_txt())


def imagenet_a(root, splits):
    t = Tree(root, "imagenet-adversarial")
    wnids = ["n01498041", "n01819313", "n02281787", "n02492035", "n03444034", "n07760859"]
    words = ["lion", "digital clock", "American black bear", "jay"]
    for wnid, n in zip(wnids, [20, 22, 20, 25, 21, 20], strict=True):
        rels = []
        for i in range(n):
            d = digest(wnid + str(i))
            a, b = words[d[0] % 4], words[d[1] % 4]
            rels.append(f"imagenet-a/{wnid}/0.{i:06d}_{a} _ {b}_0.{d[2]:03d}{d[3]:03d}.jpg")
        t.images(rels)
    t.put("imagenet-a/README.txt", "miniature\n")
    t.put("classnames.txt", classnames_txt())


def imagenet_r(root, splits):
    t = Tree(root, "imagenet-rendition")
    wnids = ["n01443537", "n01484850", "n01494475", "n01514859", "n02391049", "n07880968"]
    kinds = [
        "art",
        "cartoon",
        "deviantart",
        "embroidery",
        "graffiti",
        "graphic",
        "misc",
        "origami",
        "painting",
        "sculpture",
        "sketch",
        "sticker",
        "tattoo",
        "toy",
        "videogame",
    ]
    for wnid, n in zip(wnids, [20, 24, 21, 20, 22, 20], strict=True):
        t.images([f"imagenet-r/{wnid}/{kinds[i % 15]}_{i // 15 + 3}.jpg" for i in range(n)])
    t.put("imagenet-r/README.txt", "miniature\n")
    t.put("classnames.txt", classnames_txt())


MAKERS = [
    imagenet,
    caltech101,
    oxford_pets,
    stanford_cars,
    oxford_flowers,
    food101,
    fgvc_aircraft,
    sun397,
    dtd,
    eurosat,
    ucf101,
    imagenetv2,
    imagenet_sketch,
    imagenet_a,
    imagenet_r,
]


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("out")
    ap.add_argument("--no-splits", action="store_true")
    ap.add_argument("--only", default="")
    args = ap.parse_args()
    wanted = [w for w in args.only.split(",") if w]
    unknown = set(wanted) - {m.__name__ for m in MAKERS}
    if unknown:
        ap.error(f"unknown data sets: {sorted(unknown)}")
    for maker in MAKERS:
        if not wanted or maker.__name__ in wanted:
            maker(args.out, not args.no_splits)


if __name__ == "__main__":
    main()
