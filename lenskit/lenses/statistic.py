"""The statistics of a trajectory: their names, and what a legend calls them."""

from typing import Literal

Statistic = Literal["probability", "entropy", "kl", "rank", "target_probability", "cross_entropy"]

STATISTICS: dict[str, str] = {
    "probability": "probability of the top token",
    "entropy": "entropy (nats)",
    "kl": "KL from the final prediction (nats)",
    "rank": "rank of the target (0 is first)",
    "target_probability": "probability of the target",
    "cross_entropy": "cross-entropy of the target (nats)",
}
