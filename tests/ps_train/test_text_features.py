import numpy as np

from ps_train.common.text_features import NUM_TEXT_FEATURES, text_features


def test_counts_are_what_a_reader_counts():
    row = text_features(["Sam has 1,000 eggs. He sells half for $2.50 each day: how many in total?"])[0]
    assert row.shape == (NUM_TEXT_FEATURES,)
    words, _, _, capitals, numbers, different, fractional, largest, smallest, _ = row[:10]
    assert (words, capitals, numbers, different, fractional) == (15, 2, 2, 2, 0.5)
    np.testing.assert_allclose([largest, smallest], np.log1p([1000, 2.5]), rtol=1e-6)
    assert list(row[10:16]) == [2, 1, 0, 1, 1, 0]  # . ? % $ , /
    assert list(row[16:]) == [1, 0, 1, 1, 0, 1]  # half; -; each; total; -; day


def test_texts_without_numbers_or_words_and_no_texts_are_described_too():
    assert np.isfinite(text_features(["", "why ?"])).all()
    assert text_features([]).shape == (0, NUM_TEXT_FEATURES)
