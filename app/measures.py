"""What a report measures, in one table: what each measure means and which way is better. ``worker.evaluate`` measures it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Meaning:
    """One sentence for whoever reads the number, and which way is better."""

    text: str
    better: Better


MEASURES = {
    "c2st": Meaning("how well boosted trees tell its wines from real ones (AUC); 0.5 is not at all", "lower"),
    "c2st_excess": Meaning("the same beyond what other real wines get; 0 is as good as real", "lower"),
    "c2st_logistic": Meaning("the same by logistic regression, which sees no more than straight lines", "lower"),
    "spearman_gap": Meaning("how far its rank correlations are from the real ones, mean over pairs of columns", "lower"),
    "ks": Meaning("how far its marginals are from the real ones (Kolmogorov-Smirnov), mean over measurements", "lower"),
    "precision": Meaning("its wines that lie among real ones", "higher"),
    "recall": Meaning("real wines that lie among its own", "higher"),
    "density": Meaning("how many real neighbourhoods its wines lie in; 1 as real ones do", "higher"),
    "coverage": Meaning("real wines with one of its own in their neighbourhood", "higher"),
    "tstr_r2": Meaning("quality of real wines predicted by trees that learned from its wines (R²)", "higher"),
    "tstr_qwk": Meaning("the same as agreement with the tasters (weighted kappa)", "higher"),
    "tstr_ratio": Meaning("tstr_r2 as a share of what the training wines teach", "higher"),
    "confusion_gap": Meaning("how differently its wines are rated from real ones asked for at the same quality", "lower"),
    "near_copies": Meaning("its wines nearer to a training wine than all but 5 % of unseen real wines are", "lower"),
    "exact_copies": Meaning("its wines that equal a training wine", "lower"),
    "nndr": Meaning("distance to the nearest training wine over that to the second; near 0 is a copy", "higher"),
    "dcr_p1": Meaning("all but 1 % of its wines are at least so far from every training wine (standard deviations): what min_dcr asks for", "higher"),
    "dcr_p5": Meaning("all but 5 % are", "higher"),
    "dcr_p50": Meaning("half of them are", "higher"),
    "dcr_closer_to_train": Meaning("its wines nearer to a training wine than to an unseen one; real wines are at the ceiling", "lower"),
    "accuracy": Meaning("wines whose score it tells to within 0.5, so that it rounds to the taster's", "higher"),
    "accuracy_within_1": Meaning("wines whose score it rounds to the taster's or to one next to it", "higher"),
    "mad": Meaning("how many points it is off, mean over wines", "lower"),
    "r2": Meaning("share of the variance of the scores that it explains", "higher"),
    "log_loss": Meaning("how little it had expected the taster's score (nats), mean over wines", "lower"),
}
RULES = {  # of plausibility: shares of wines, better the nearer to those of real ones
    "free_within_total": "free SO2 is not above the total",
    "within_bounds": "every measurement is physically possible",
    "known_values": "every measurement has a value that some training wine has",
    "density_explained": "the other ten measurements explain its density",
    "near_real_wines": "as near to a real wine that it is compared with as training wines are",
}
FINDINGS = {  # figures of a method's own, where their name does not say it all
    "confidence": "mean probability that its classifier gives to the quality a wine goes by",
    "boosted trees": "the same measures of boosted trees that learned from the same wines",
    "reconstruction error": "mean absolute, in standard deviations of the measurement",
    "reconstruction error of the median": "the same if every wine came back as the median of its type",
    "acceptance": "share of candidates whose quality the classifier was sure enough of",
    "beyond the training range": "share of rows that are cut off at the end of the range",
}
