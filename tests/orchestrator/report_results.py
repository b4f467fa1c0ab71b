"""A sweep on disk with everything that its evaluations can leave: plausible numbers, no computation."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.evaluation import table_head
from orchestrator.ledger import Ledger
from orchestrator.opening import write_plan
from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.selected import Selected
from orchestrator.selection import choose
from orchestrator.storage import SweepStorage, write_json
from tests.orchestrator.plans import CUTOFFS, open_ledger, small_plan, worker_details
from trainables.target import Target

GROUPS = {"V1v": "early", "hV4": "early", "EBA": "bodies", "FFA-1": "faces", "PPA": "places", "VWFA-1": "words"}
LEVEL = {"untuned": 0.0, "contrastive": 0.03, "regression": 0.01, "pooled-avg": 0.04, "pooled-const": 0.035}
TUNED = ("contrastive", "regression")
POOLED = ("pooled-avg", "pooled-const")
HEMISPHERES = ("lh", "rh")


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    subjects: tuple[str, ...] = ("subj01", "subj02")
    rois: tuple[str, ...] = ("V1v", "FFA-1")
    trials: int = 4
    voxels: int = 30


class Maker:
    """Writes one sweep; every number comes from one seeded generator."""

    def __init__(self, storage: Path, size: Size, **plan: Any) -> None:
        self.size = size
        self.places = SweepStorage(str(storage), plan.get("name", "small"))
        self.places.create()
        self.random = np.random.default_rng(0)
        owners = (*((subject,) for subject in size.subjects), size.subjects)
        targets = tuple(Target("demo", owner, h, roi) for owner in owners for h in HEMISPHERES for roi in size.rois)
        self.plan: SweepPlan = small_plan(
            Path(str(self.places.root)),
            **{
                "targets": targets,
                "methods": (*TUNED, "untuned", "pooled-avg"),
                "roi_groups": {roi: GROUPS.get(roi, "other") for roi in size.rois},
                "trials": size.trials,
                "tracking_uri": self.places.default_tracking_uri,
                "ledger": str(self.places.journal_file),
                **plan,
            },
        )
        write_plan(self.places, self.plan)
        self.ledger: Ledger = open_ledger(self.plan)
        self.selection: list[Selected] = []

    def r(self, method: str, roi: str, layer: str = "features.5", spread: float = 0.01) -> float:
        """A mean r that depends on method, ROI and layer."""
        base = 0.42 - 0.05 * list(self.plan.roi_groups).index(roi) - 0.03 * abs(CUTOFFS.index(layer) - 1)
        return float(base + LEVEL[method] + spread * self.random.standard_normal())

    def run_trials(self) -> None:
        """Every trial of the plan; a fifth of the tuned ones is pruned."""
        for key, budget in self.plan.studies.items():
            for number in range(budget):
                self._trial(key, pruned=number % 5 == 4)
        self.selection = choose(self.ledger)

    def _trial(self, key: StudyKey, pruned: bool) -> None:
        trial = self.ledger.ask(key)
        layer = trial.config.layer_cutoff
        score = self.r(key.method, key.target.roi, layer)
        if key.method != "untuned":
            score -= 0.02 * abs(float(np.log10(trial.config.learning_rate / 1e-4)))
        if pruned:
            self.ledger.report(trial, 1, score - 0.05)
            self.ledger.finish(trial, "pruned", None, worker_details(1, {layer: score}, 1))
        else:
            last = trial.config.epochs
            self.ledger.report(trial, last, score)
            details = worker_details(last, {layer: score}, last)
            if len(self.plan.optimise) > 1:  # the better a network predicts responses, the worse it names objects
                kept = 0.9 - 0.8 * score + 0.02 * self.random.standard_normal()
                details["scores"] = {name: float(kept) for name in self.plan.optimise[1:]}
            self.ledger.finish(trial, "complete", score, details)

    def networks(self, methods: tuple[str, ...] = ("untuned", *TUNED)) -> list[dict[str, Any]]:
        """A row for each selected network, with where it was tuned."""
        return [
            {
                "network": "untuned" if method == "untuned" else f"{target.slug}.{method}",
                "method": method,
                "target": target.name,
                "subject": target.subjects[0],
                "hemisphere": target.hemisphere,
                "roi": target.roi,
                "roi_group": self.plan.roi_groups[target.roi],
            }
            for target in self.plan.targets
            if not target.is_pooled
            for method in methods
        ]

    def pooled_networks(self) -> list[dict[str, Any]]:
        """The same for networks of all subjects together."""
        subjects = "+".join(self.size.subjects)
        return [
            {
                "network": f"{subjects}-{hemisphere}-{roi}.{method}",
                "method": method,
                "target": f"{subjects}/{hemisphere}/{roi}",
                "subject": subjects,
                "hemisphere": hemisphere,
                "roi": roi,
                "roi_group": self.plan.roi_groups[roi],
            }
            for hemisphere in HEMISPHERES
            for roi in self.size.rois
            for method in POOLED
        ]

    def pooled_members(self) -> list[dict[str, Any]]:
        """Pooled networks at each of their subjects, as the encoding evaluation names them."""
        return [
            {**network, "subject": subject, "target": f"{subject}/{network['hemisphere']}/{network['roi']}"}
            for network in self.pooled_networks()
            for subject in self.size.subjects
        ]

    def write(self, evaluation: str, content: dict[str, Any]) -> None:
        """A file of an evaluation, with its protocol, split and trials."""
        header = table_head(self.plan, self.selection)
        write_json(self.places.evaluation_dir / f"{evaluation}.json", {**header, **content})

    def encoding(self) -> None:
        rows = []
        for network in (*self.networks(), *self.pooled_members()):
            slug = network["target"].replace("/", "-")
            spread = 0.1 * self.random.standard_normal(self.size.voxels)
            r = np.clip(self.r(network["method"], network["roi"]) + spread, -1, 1)
            folder = self.places.evaluation_dir / "encoding" / slug
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(str(folder / f"{network['method']}.npz"), r=r)
            improved = None if network["method"] == "untuned" else 100 * float(self.random.uniform(0.5, 0.9))
            rows.append(
                {
                    **network,
                    "slug": slug,
                    "trial": f"{network['target']}/{network['method']}/00000",
                    "val_r": self.r(network["method"], network["roi"]),
                    "readout_layer": "features.5",
                    "champion": network["method"] == "contrastive",
                    "split_digest": self.plan.split_digest,
                    "test_r": float(r.mean()),
                    "test_noise_normalised_r2": None,
                    "n_voxels": self.size.voxels,
                    "n_test_stimuli": 40,
                    "voxels_improved_percent": improved,
                    "voxels_above_regression_percent": improved if network["method"] != "regression" else None,
                }
            )
        self.write("encoding", {"optimistic": "", "rows": rows})

    def layers(self) -> None:
        rows = []
        first = self.size.rois[0]
        for network in self.networks():
            if network["method"] == "untuned" and network["roi"] != first:
                continue  # one network for all ROIs
            for roi in self.size.rois:
                for layer in CUTOFFS:
                    place = {"roi": roi, "roi_group": self.plan.roi_groups[roi], "layer": layer}
                    score = self.r(network["method"], roi, layer)
                    scores = {"val_r": score, "test_r": score - 0.01, "n_voxels": self.size.voxels}
                    rows.append({**network, **place, **scores})
        self.write("layers", {"rows": rows})

    def transfer(self) -> None:
        rows = [
            {
                **network,
                "source": network["subject"],
                "subject": subject,
                "dataset": "nod" if external else "demo",
                "external": external,
                "readout_layer": "features.5",
                "r": self.r(network["method"], network["roi"]),
                "untuned_r": self.r("untuned", network["roi"]),
                "fraction_above_untuned": float(self.random.uniform(0.4, 0.9)),
                "mean_delta_r": 0.02 * float(self.random.standard_normal()),
                "n_voxels": self.size.voxels,
                "left_out": subject == "subj08",
            }
            for network in (*self.networks(("contrastive",)), *self.pooled_networks())
            for subject, external in (*((s, False) for s in self.size.subjects), ("sub-01", True))
        ]
        rows += [{**row, "subject": "subj08", "left_out": True} for row in rows if "+" in row["source"]]
        self.write("transfer", {"rows": rows})

    def information(self) -> None:
        rows = []
        for network in (*self.networks(("contrastive",)), *self.pooled_networks()):
            top1, top5 = self.random.uniform(0.05, 0.2, 2), self.random.uniform(0.2, 0.5, 2)
            row = {"bits": float(self.random.uniform(0.8, 2.0)), "limit_bits": 5.32, "beta": 0.8, "n_stimuli": 40}
            row |= {"image_top1": top1[0], "response_top1": top1[1], "image_top5": top5[0], "response_top5": top5[1]}
            rows.append({**network, **row, "chance_top1": 1 / 40, "chance_top5": 5 / 40})
        self.write("information", {"rows": rows})

    def classification(self) -> None:
        untuned = {"network": "untuned", "method": "untuned", "target": None, "roi_group": None, "accuracy": 0.82}
        rows: list[dict[str, Any]] = [{**untuned, "layer": "classifier.5", "n_test": 100}]
        for network in self.networks(TUNED):
            accuracy = 0.75 + 0.02 * float(self.random.standard_normal())
            rows.append({**network, "layer": "classifier.5", "accuracy": accuracy, "n_test": 100})
        content = {"n_classes": 101, "chance": 1 / 101, "n_train": 600, "n_test": 100, "rows": rows}
        self.write("classification", {"sets": {"caltech101": content}})

    def landscape(self) -> None:
        networks = self.networks(TUNED)
        names = ["untuned", *(n["network"] for n in networks), "true labels"]
        n_axes = min(10, len(names))
        coordinates = self.random.standard_normal((len(names), n_axes)) / np.arange(1, n_axes + 1)
        coordinates[-1] = np.array([4.0, *[0.0] * (n_axes - 1)])
        stress = 1 - 0.5 ** np.arange(1, n_axes + 1)
        content = {
            "names": names,
            "methods": ["untuned", *(n["method"] for n in networks), None],
            "roi_groups": [None, *(n["roi_group"] for n in networks), None],
            "accuracies": [0.82, *(0.75 + 0.02 * self.random.standard_normal(len(networks))), 1.0],
            "coordinates": coordinates.tolist(),
            "imaginary": [axis % 3 == 1 for axis in range(n_axes)],
            "explained_stress": stress.tolist(),
        }
        self.write("landscape", {"sets": {"caltech101": content}})

    def salience(self) -> None:
        gallery, classes = [], []
        of_classes = {"set": "caltech101", "layer": "features.12", "classes": ["ant", "brain", "crab"]}
        for network in self.networks(("contrastive",))[: 2 * len(self.size.rois)]:
            gallery.append({**network, "images": self._images(f"salience/{network['network']}")})
            images = self._images(f"salience/{network['network']}/class-caltech101")
            classes.append({"network": network["network"], "method": "contrastive", **of_classes, "images": images})
        galleries = {"gallery": gallery, "class_gallery": classes}
        self.write("salience", {"layer": "features.12", **galleries, **self._lateralisation()})

    def _images(self, base: str) -> list[str]:
        places = [f"{base}-{n}.png" for n in range(3)]
        for place in places:
            path = self.places.evaluation_dir / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._picture())
        return places

    def _lateralisation(self) -> dict[str, Any]:
        networks = self.networks(("contrastive",))
        fields = ("subject", "roi", "roi_group", "method")
        pairs = [{name: n[name] for name in fields} for n in networks if n["hemisphere"] == "lh"]
        of_rois = {(p["roi"], p["method"]): {**p, "subject": None} for p in pairs}
        exchange = {"spread": 0.011, "layer": "features.5", "interval": None, "t": None, "p_sign_flip": None}
        return {
            "lateralisation": [{**p, "pair": "right - left model", **self._comparison()} for p in pairs],
            "lateralisation_voxels": [
                {**{name: n[name] for name in ("network", *fields)}, **self._comparison(), **exchange} for n in networks
            ],
            "lateralisation_subjects": [{**p, "pair": "rh - lh", **self._comparison()} for p in of_rois.values()],
        }

    def _picture(self) -> bytes:
        blocks = self.random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(blocks).resize((224, 224), Image.Resampling.BICUBIC).save(file, format="PNG")
        return file.getvalue()

    def _comparison(self) -> dict[str, Any]:
        middle = 0.02 + 0.01 * float(self.random.standard_normal())
        tests = {"t": 2.5, "p": 0.02, "p_sign_flip": 0.03, "p_corrected": 0.04, "n": 8}
        words = {"correction": "Benjamini-Hochberg over 2 comparisons", "protocol": "nested, test stimuli"}
        return {"mean_difference": middle, "interval": [middle - 0.015, middle + 0.015], **tests, **words}

    def statistics(self) -> None:
        names = ("contrastive - untuned", "contrastive - regression")
        places = [{"roi": roi, "roi_group": self.plan.roi_groups[roi]} for roi in self.size.rois]
        over_subjects = [
            {
                "name": name,
                **place,
                "hemisphere": h,
                "subject": None,
                "interval_over": "3 subjects",
                **self._comparison(),
            }
            for name in names
            for place in places
            for h in HEMISPHERES
        ]
        over_voxels = [
            {**row, "subject": subject, "t": None, "p": None, "interval_over": "40 stimuli"}
            for row in over_subjects
            for subject in self.size.subjects
        ]
        self.write("statistics", {"over_voxels": over_voxels, "over_subjects": over_subjects})

    def everything(self) -> Maker:
        """All trials and all files."""
        self.run_trials()
        for evaluation in ("encoding", "layers", "transfer", "information"):
            getattr(self, evaluation)()
        for evaluation in ("classification", "landscape", "salience", "statistics"):
            getattr(self, evaluation)()
        write_json(self.places.selection_file, [asdict(selected) for selected in self.selection])
        return self
