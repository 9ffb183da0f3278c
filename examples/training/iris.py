"""Trains a logistic regression on scikit-learn's iris data and writes its weights as JSON for the plugin `iris`.

Usage: iris.py FOLDER
"""

import json
import sys
from pathlib import Path

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split


def main(folder: Path) -> None:
    iris = load_iris()
    train_x, test_x, train_y, test_y = train_test_split(
        iris.data, iris.target, test_size=0.3, random_state=0, stratify=iris.target
    )
    model = LogisticRegression(max_iter=1000).fit(train_x, train_y)
    accuracy = model.score(test_x, test_y)
    print(f"iris: {accuracy:.1%} of {len(test_y)} held-out flowers are classified correctly")
    if accuracy < 0.9:
        sys.exit("expected at least 90 %")
    weights = {
        "classes": iris.target_names.tolist(),
        "coefficients": model.coef_.tolist(),
        "intercepts": model.intercept_.tolist(),
    }
    (folder / "weights.json").write_text(json.dumps(weights, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
