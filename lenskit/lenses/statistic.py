"""The statistics of a trajectory: their names, and what a legend calls them."""

from typing import Literal

Statistic = Literal[
    "probability",
    "entropy",
    "kl",
    "rank",
    "target_probability",
    "cross_entropy",
    "loss",
    "log_prob_difference",
    "log_prob_difference_change",
]

STATISTICS: dict[str, str] = {
    "probability": "probability of the top token",
    "entropy": "entropy (nats)",
    "kl": "KL from the final prediction (nats)",
    "rank": "rank of the target (0 is first)",
    "target_probability": "probability of the target",
    "cross_entropy": "cross-entropy of the target (nats)",
    "loss": "cross-entropy of the next token (nats)",
    "log_prob_difference": "log-probability of the target less the other's (nats)",
    "log_prob_difference_change": "its change from the layer before (nats)",
}

BETWEEN: dict[str, str] = {
    "kl": "KL of the second from the first (nats)",
    "js": "Jensen-Shannon divergence (nats)",
    "js_distance": "Jensen-Shannon distance",
    "total_variation": "total variation",
    "largest_change": "largest change in a token's probability",
}
"""The statistics between two trajectories."""

SIGNED = ("log_prob_difference", "log_prob_difference_change", "largest_change")
PROBABILITIES = ("probability", "target_probability", "total_variation")
