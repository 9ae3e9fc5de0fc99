"""The tiny samples in data/samples: pairs drawn by the tiny world, written in the format of each real benchmark.

    lrt data sample        # makes them again

They show what the readers read, and nothing about any real picture or voter.
"""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, Value
from PIL import Image as PILImage

from lrt import world
from lrt.files import write_text
from lrt.models import data_dir
from lrt.pairs import split_prompts

SPLIT = "train"  # of the tiny world; its pictures are no test of anything
N_PROMPTS = 4
README = """# Samples

A few pairs in the format of each benchmark that `lrt.real.sources` reads. **The pictures are drawn by this project's
tiny world in the format of each benchmark, and the votes are simulated: nothing here was taken from the benchmarks.**
`lrt data sample` makes the files again.

| file | in the format of |
|---|---|
| `imagereward/test.json`, its files in `imagereward/images` | ImageReward's label file |
| `imagereward/rows.parquet` | ImageRewardDB's own rows, images as bytes |
| `imagereward/metadata.json`, its files in `imagereward/images` | ImageRewardDB's own rows, images as files |
| `hpdv2/train.json`, `hpdv2/test.json`, their files in `hpdv2/images` | HPDv2's two files |
| `rapidata/votes` | a shard of Rapidata's with numbers of votes |
| `rapidata/weighted` | a shard of Rapidata's with weighted shares |
| `pickapic` | a shard of Pick-a-Pic; its last row was never judged |

    lrt data check imagereward data/samples/imagereward/test.json --images data/samples/imagereward/images
    lrt data check rapidata data/samples/rapidata/votes --picture pairs.png
"""


def write_samples(folder: str | Path | None = None) -> list[Path]:
    """Write all samples, by default to data/samples; returns the files. The same bytes every time with the same
    libraries: encoders of images and of Parquet differ a little between releases."""
    out = Path(folder) if folder is not None else data_dir() / "samples"
    drawn = [_prompt(asked) for asked in split_prompts(SPLIT)[:N_PROMPTS]]
    _imagereward(out / "imagereward", drawn)
    _hpdv2(out / "hpdv2", drawn)
    _rapidata(out / "rapidata", drawn)
    _pickapic(out / "pickapic", drawn)
    _text(out / "README.md", README)
    return sorted(path for path in out.rglob("*") if path.is_file())


def _prompt(asked) -> tuple[str, list, list[float]]:
    """(prompt, pixels of four images, their utilities)"""
    r = world.rng("samples", world.prompt_id(asked))
    scenes = [world.draw_scene(asked, flaws, r) for flaws in (world.SKILLED, world.CLUMSY) * 2]
    scenes = [scenes[i] for i in r.permutation(len(scenes))]
    pictures = [world.render(scene, "none") for scene in scenes]
    return world.prompt_text(asked), pictures, [world.utility(asked, scene) for scene in scenes]


def _ranking(utilities: list[float]) -> list[int]:
    """1 = best; equal worth, equal rank."""
    return [1 + sum(other > own for other in utilities) for own in utilities]


# --- the formats ---------------------------------------------------------------------------------------------------


def _imagereward(out: Path, drawn) -> None:
    labels, rows, bytes_ = [], [], []
    for k, (prompt, pictures, utilities) in enumerate(drawn):
        prompt_id, part, ranking = f"00000{k}-0001", f"part-00000{k}/images/0001", _ranking(utilities)
        files = [f"{part}/{k}-{i}.webp" for i in range(len(pictures))]
        labels.append({"id": prompt_id, "prompt": prompt, "generations": files, "ranking": ranking})
        for file, picture, rank in zip(files, pictures, ranking, strict=True):
            data = _encoded(picture, "WEBP", quality=80)
            _bytes(out / "images" / file, data)
            bytes_.append(data)
            rating = max(1, 8 - 2 * rank)
            rows.append({
                "image_path": file, "prompt_id": prompt_id, "prompt": prompt, "classification": "Shapes",
                "image_amount_in_total": len(files), "rank": rank, "overall_rating": rating,
                "image_text_alignment_rating": rating, "fidelity_rating": rating,
            })
    _json(out / "test.json", labels)
    _json(out / "metadata.json", rows)
    with_bytes = []
    for row, data in zip(rows, bytes_, strict=True):
        rest = {key: value for key, value in row.items() if key != "image_path"}
        with_bytes.append({"image": {"bytes": data, "path": Path(row["image_path"]).name}} | rest)
    kinds = {"image": Image(), "prompt_id": Value("string"), "prompt": Value("string"),
             "classification": Value("string")}
    _parquet(out / "rows.parquet", with_bytes, kinds | {name: Value("int32") for name in list(with_bytes[0])[4:]})


def _hpdv2(out: Path, drawn) -> None:
    train, test = [], []
    for k, (prompt, pictures, utilities) in enumerate(drawn):
        files = [f"{len(pictures) * k + i:05d}.jpg" for i in range(len(pictures))]
        for file, picture in zip(files, pictures, strict=True):
            _bytes(out / "images" / file, _encoded(picture, "JPEG", quality=85))
        first = utilities[0] >= utilities[1]
        train.append({"human_preference": [int(first), int(not first)], "prompt": prompt, "file_path": files[:2]})
        own = [_ranking(_seen(utilities, f"{prompt}/{voter}")) for voter in range(3)]
        averaged = [round(sum(column) / len(own), 2) for column in zip(*own, strict=True)]
        voters = [{"rank": rank, "user_hash": f"voter{voter}"} for voter, rank in enumerate(own)]
        test.append({"prompt": prompt, "image_path": files, "rank": averaged, "raw_annotations": voters})
    _json(out / "train.json", train)
    _json(out / "test.json", test)


def _rapidata(out: Path, drawn) -> None:
    counted, weighted = [], []
    for prompt, pictures, utilities in drawn:
        images = [{"bytes": _encoded(picture, "JPEG", quality=85), "path": None} for picture in pictures[:2]]
        same = {"prompt": prompt, "image1": images[0], "image2": images[1]}
        p = world.p_prefer_first(*utilities[:2])
        first = int(world.rng("samples", "votes", prompt).binomial(26, p))
        counted.append(same | {"votes_image1": first, "votes_image2": 26 - first, "model1": "skilled",
                               "model2": "clumsy"})
        shares = {"preference": p, "coherence": (p + 1) / 3, "alignment": p}
        weighted.append(same | {"model1": "skilled", "model2": "clumsy"} | {
            f"weighted_results_image{i}_{aspect}": round(share if i == 1 else 1 - share, 4)
            for aspect, share in shares.items() for i in (1, 2)
        })
    kinds = {"prompt": Value("string"), "image1": Image(), "image2": Image()}
    models = {"model1": Value("string"), "model2": Value("string")}
    votes = {"votes_image1": Value("int64"), "votes_image2": Value("int64")}
    shares = {name: Value("float64") for name in list(weighted[0])[5:]}
    _parquet(out / "votes/train-00000-of-00001.parquet", counted, kinds | votes | models)
    _parquet(out / "weighted/train-00000-of-00001.parquet", weighted, kinds | models | shares)


def _pickapic(out: Path, drawn) -> None:
    rows = []
    for k, (prompt, pictures, utilities) in enumerate(drawn):
        label = 0.5 if utilities[0] == utilities[1] else float(utilities[0] > utilities[1])
        rows.append({
            "are_different": True, "caption": prompt, "has_label": k != N_PROMPTS - 1,
            "jpg_0": _encoded(pictures[0], "JPEG", quality=85), "jpg_1": _encoded(pictures[1], "JPEG", quality=85),
            "label_0": label, "label_1": 1 - label, "ranking_id": k, "user_id": k,
            "image_0_uid": f"sample-{k}-0", "image_1_uid": f"sample-{k}-1",
        })
    types = {"are_different": pa.bool_(), "caption": pa.string(), "has_label": pa.bool_(), "jpg_0": pa.binary(),
             "jpg_1": pa.binary(), "label_0": pa.float64(), "label_1": pa.float64(), "ranking_id": pa.int64(),
             "user_id": pa.int64(), "image_0_uid": pa.string(), "image_1_uid": pa.string()}
    _table(out / "train-00000-of-00001.parquet", pa.Table.from_pylist(rows, schema=pa.schema(types)))


def _seen(utilities: list[float], voter: str) -> list[float]:
    """How good one voter finds each image: its worth, rounded, with a taste of their own."""
    taste = world.rng("samples", "voter", voter).normal(size=len(utilities))
    return [round(u + 0.7 * t) for u, t in zip(utilities, taste, strict=True)]


# --- files ---------------------------------------------------------------------------------------------------------


def _encoded(pixels, format_: str, **how) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format=format_, **how)
    return buffer.getvalue()


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _json(path: Path, rows: list[dict]) -> None:
    _text(path, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def _bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _parquet(path: Path, rows: list[dict], kinds: dict) -> None:
    _table(path, pa.Table.from_pylist(rows, schema=Features(kinds).arrow_schema))


def _table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=2, write_statistics=False, compression="zstd")
    _bytes(path, buffer.getvalue())
