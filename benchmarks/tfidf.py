"""tf-idf with logistic regression on a data set of texts: what a small student has to beat.

python benchmarks/tfidf.py DATA [--text-column TEXT] [--label-column LABEL] [--run RUN_FOLDER ...]

With finished runs of one recipe, of other seeds each: their students less tf-idf, with a paired
interval over seeds and test texts.
"""

import argparse
from pathlib import Path

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from torch import Tensor

from tutelage.config import build_job, read_recipe
from tutelage.data.loading import in_order
from tutelage.data.text import Columns, held_out_parts, read_parts
from tutelage.models.load import load_weights
from tutelage.significance import paired_interval

CHOICES = ("selected", "last")


def right_by_seed(folder: Path, choice: str) -> Tensor:
    """Whether each distilled student of a run puts each test text right: a row a seed."""
    recipe = read_recipe(folder / "recipe.yaml").model_copy(update={"output": folder})
    job = build_job(recipe, folder=folder)
    rows = []
    for seed in job.seeds:
        model = job.new_student(seed)
        place = folder / "arms" / "distilled" / f"seed-{seed}" / f"{choice}.safetensors"
        load_weights(model, place)
        reader = job.test_reader
        batches = (reader[request] for request in in_order(len(reader), batch_size=64))
        said = job.task.predict(model, batches, torch.device("cpu"))
        rows.append(job.task.scores(said))
    return torch.stack(rows)


def main() -> None:
    """Fit on train and valid together, print the share of test texts that it puts right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--run", type=Path, nargs="+", default=[])
    given = parser.parse_args()
    columns = Columns(given.text_column, given.label_column)
    parts = held_out_parts(read_parts(given.data), columns, 0.1, 0.1, 0)
    train, valid, test = (parts[name] for name in ("train", "valid", "test"))
    texts, labels = [*train.texts, *valid.texts], [*train.labels, *valid.labels]
    students = {
        choice: torch.cat([right_by_seed(run, choice) for run in given.run])
        for choice in CHOICES
        if given.run
    }
    for words, most in (("words", 1), ("words and pairs", 2)):
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, most), sublinear_tf=True),
            LogisticRegressionCV(
                Cs=10, cv=5, l1_ratios=(0,), scoring="accuracy", use_legacy_attributes=False
            ),
        )
        right = torch.from_numpy(model.fit(texts, labels).predict(test.texts) == test.labels)
        accuracy = float(right.double().mean())
        print(f"tf-idf of {words}, logistic regression: {accuracy:.2%} of {len(right)}")
        for name, rows in students.items():
            found = paired_interval(rows, right.expand_as(rows))
            mean, low, high = (100 * value for value in (found.mean, found.low, found.high))
            print(f"  students, {name}, less that: {mean:+.2f} points, {low:+.2f} to {high:+.2f}")


if __name__ == "__main__":
    main()
