"""tf-idf with logistic regression on a data set of texts: what a small student has to beat.

python benchmarks/tfidf.py DATA [--text-column TEXT] [--label-column LABEL]
"""

import argparse

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline

from tutelage.data.text import Columns, held_out_parts, read_parts


def main() -> None:
    """Fit on train and valid together, print the share of test texts that it puts right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    given = parser.parse_args()
    columns = Columns(given.text_column, given.label_column)
    parts = held_out_parts(read_parts(given.data), columns, 0.1, 0.1, 0)
    train, valid, test = (parts[name] for name in ("train", "valid", "test"))
    texts, labels = [*train.texts, *valid.texts], [*train.labels, *valid.labels]
    for words, most in (("words", 1), ("words and pairs", 2)):
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, most), sublinear_tf=True),
            LogisticRegressionCV(Cs=10, cv=5, l1_ratios=(0,), use_legacy_attributes=False),
        )
        accuracy = model.fit(texts, labels).score(test.texts, test.labels)
        print(f"tf-idf of {words}, logistic regression: {accuracy:.2%} of {len(test.texts)}")


if __name__ == "__main__":
    main()
