"""The gold judge learns, keeps its scores through a file, and is read by nobody who learns."""

from pathlib import Path

import numpy as np
import pytest

from backflip.data import Item, Query
from backflip.errors import DataError
from backflip.measures.gold import GoldConfig, fit_gold_judge, gold_accuracy, gold_scores, load_gold
from backflip.overseers.synthetic import SyntheticTeacher
from backflip.store import Store
from backflip.truth import GoldJudge, GuardedTruth, StoredTruth, text_of

GOOD = ["wonderful", "charming", "moving", "funny", "brilliant"]
BAD = ["dull", "boring", "tedious", "clumsy", "lifeless"]
FILLER = "the a film story plot cast scene and with of is this director camera".split()


def reviews(count: int, seed: int) -> tuple[list[str], list[int]]:
    rng = np.random.default_rng(seed)
    labels = [int(y) for y in rng.integers(0, 2, count)]
    texts = [" ".join(rng.permutation([*rng.choice(FILLER, 6), *rng.choice(GOOD if y else BAD, 2)])) for y in labels]
    return texts, labels


def item(text: str, prompt: str = "") -> Item:
    return Item(prompt, text, {"answer_text": text})


@pytest.fixture(scope="module")
def judge() -> GoldJudge:
    return fit_gold_judge(*reviews(300, 0), GoldConfig(min_pairs=1, min_grams=1))


def test_learns_held_out_labels_and_reads_unseen_forms(judge: GoldJudge):
    found = gold_accuracy(judge, *reviews(200, 1))
    assert found.low > 0.95 and found.n == 200
    charmingly, dullish = judge.score(["charmingly", "boringly"])
    assert charmingly > dullish


def test_fit_is_deterministic_and_weak_texts_count(judge: GoldJudge):
    texts, labels = reviews(60, 2)
    config = GoldConfig(min_pairs=1, min_grams=1)
    alone = fit_gold_judge(texts, labels, config)
    assert fit_gold_judge(texts, labels, config) == alone
    helped = fit_gold_judge(texts, labels, config, weak_texts=["zesty film"] * 3, weak_labels=[1] * 3)
    assert alone.score(["zesty"])[0] < helped.score(["zesty"])[0]


def test_calibrated_logits():
    """With a tenth of the labels flipped, a judge of clear texts says about 90 %."""
    texts, labels = reviews(1500, 3)
    rng = np.random.default_rng(4)
    noisy = [y if rng.random() > 0.1 else 1 - y for y in labels]
    judge = fit_gold_judge(texts, noisy, GoldConfig(min_pairs=3, min_grams=3, l2=1.0))
    texts, labels = reviews(400, 5)
    said = 1 / (1 + np.exp(-np.abs(judge.score(texts))))
    assert 0.86 < said.mean() < 0.94


def test_score_is_the_fitted_linear_model_and_repeating_does_not_pay(judge: GoldJudge):
    once, thrice = judge.score(["a wonderful film", "a wonderful wonderful wonderful wonderful wonderful film"])
    assert 0 < thrice < once + abs(judge.pair.get(("wonderful", "wonderful"), 0.0))
    text = "Dull, dull film"
    words = ["dull", ",", "dull", "film"]
    pairs = {("<s>", "dull"), ("dull", ","), (",", "dull"), ("dull", "film"), ("film", "</s>")}
    grams = sum(
        judge.gram.get(g, 0)
        for w in set(words)
        for n in (3, 4, 5)
        for m in [f"^{w}$"]
        if len(m) > n
        for g in [m[i : i + n] for i in range(len(m) - n + 1)]
    )
    total = sum(judge.word.get(w, 0) for w in set(words)) + sum(judge.pair.get(p, 0) for p in pairs) + grams
    assert judge.score([text])[0] == pytest.approx(judge.bias + total / (4 + judge.offset) ** 0.5)


def test_file_round_trip(judge: GoldJudge, tmp_path: Path):
    texts, _ = reviews(50, 6)
    judge.save(tmp_path / "gold.safetensors")
    loaded = GoldJudge.load(tmp_path / "gold.safetensors")
    np.testing.assert_allclose(loaded.score(texts), judge.score(texts), atol=5e-3, rtol=1e-3)
    assert dict(loaded.card) == dict(judge.card)
    loaded.save(tmp_path / "again.safetensors")
    assert (GoldJudge.load(tmp_path / "again.safetensors").score(texts) == loaded.score(texts)).all()


def test_broken_files_are_named(judge: GoldJudge, tmp_path: Path):
    path = tmp_path / "gold.safetensors"
    with pytest.raises(DataError, match=r"gold\.safetensors"):
        GoldJudge.load(path)
    judge.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"gold\.safetensors"):
        GoldJudge.load(path)


def test_labels_must_fit_the_texts():
    with pytest.raises(DataError, match="one label"):
        fit_gold_judge(["a", "b"], [1])
    with pytest.raises(DataError, match="both kinds"):
        fit_gold_judge(["a"] * 9, [1] * 9)


def test_reads_prompt_and_answer_as_one_text(judge: GoldJudge):
    assert text_of(item(" charming film", "a")) == "a charming film"
    assert text_of(item("charming film", "a")) == "a charming film"
    assert text_of(item("charming film", "a ")) == "a charming film"
    assert text_of(item(", charming", "dull")) == "dull, charming"
    assert judge(item(" charming film", "a")).tolist() == judge.score(["a charming film"]).tolist()


def test_only_teacher_and_measures_may_read(judge: GoldJudge):
    guarded = GuardedTruth(judge)
    with pytest.raises(PermissionError, match=__name__):
        guarded(item("charming"))
    assert gold_scores(guarded, [item("charming")])[0] == judge.score(["charming"])[0]


def test_a_loaded_gold_is_guarded_and_the_teacher_may_read_it(judge: GoldJudge, tmp_path: Path):
    judge.save(tmp_path / "gold.safetensors")
    gold = load_gold(tmp_path / "gold.safetensors")
    with pytest.raises(PermissionError):
        gold(item("charming"))
    with Store.open(tmp_path / "store.sqlite") as store:
        query = Query((item("charming"), item("dull")), "which?")
        assert SyntheticTeacher(store, gold).judge(query).answer == (1.0, 0.0)


def test_a_learner_that_reads_the_truth_is_stopped(judge: GoldJudge):
    """The planted fault: a reward that asks the gold judge, as an optimiser would call it."""
    from backflip.rewards.combine import FunctionReward

    guarded = GuardedTruth(judge)

    class Shown:
        def show(self, episodes: object) -> list[Item]:
            return [item("charming")]

    with pytest.raises(DataError, match="PermissionError"):
        FunctionReward(lambda prompt, text: float(guarded(item(text))[0]), Shown())(None)  # type: ignore[arg-type]


def test_stored_truth_computes_once(judge: GoldJudge, tmp_path: Path):
    calls: list[str] = []

    def truth(one: Item) -> np.ndarray:
        calls.append(one.content)
        return judge(one)

    store = Store.open(tmp_path / "store.sqlite")
    stored = StoredTruth(truth, store, "gold")
    assert stored(item("charming")).tolist() == stored(item("charming")).tolist() == judge(item("charming")).tolist()
    assert calls == ["charming"]
    stored.keep([item("charming"), item("dull"), item("dull")])
    assert calls == ["charming", "dull"] and len(store.truth([item("dull").id], "gold")) == 1
    assert StoredTruth(truth, store, "other")(item("charming")) is not None and len(calls) == 3
    with pytest.raises(PermissionError):
        StoredTruth(GuardedTruth(judge), store, "guarded")(item("charming"))
    store.close()
