import pytest
import torch

from modalign.models.codis import Codis, rerank
from modalign.models.codis_encoders import CLS_ID, SPECIAL_TOKENS, tiny
from modalign.models.codis_tasks import Judge, Questions, Retrieval
from modalign.models.inputs import build_tokenizer, tokenize

WORDS = ["what colour is it", "it is a star", "red", "light blue", "blue"]


@pytest.fixture
def tokenizer():
    return build_tokenizer(WORDS, special_tokens=SPECIAL_TOKENS)


@pytest.fixture
def codis(tokenizer):
    sizes = {"image_size": 16, "width": 16, "heads": 2, "dim": 8, "prototypes": 6, "queue": 8}
    return Codis(tiny(tokenizer.get_vocab_size(), **sizes, max_length=8))


def asked(tokenizer, n=4, pictures=1):
    texts = [f"[CLS] {WORDS[i % 2]}" for i in range(n)]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, pictures, 3, 16, 16, generator=generator)
    return {"images": images, **tokenize(tokenizer, texts), "label": torch.arange(n) % 2}


def learns(task, batch, steps=60):
    """Train on one batch; return the first loss and the last."""
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = task.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


# judgements


@pytest.mark.parametrize(("classes", "pictures"), [(2, 2), (3, 1)])
def test_a_judge_learns_a_batch(codis, tokenizer, classes, pictures):
    judge, batch = Judge(codis, classes, pictures=pictures), asked(tokenizer, 6, pictures)
    batch["label"] = torch.arange(6) % classes
    _, last = learns(judge, batch)
    assert last < 0.1
    assert torch.equal(judge.predict(batch), batch["label"])


def test_a_judge_sees_each_picture_and_which_is_which(codis, tokenizer):
    judge, batch = Judge(codis, 2, pictures=2), asked(tokenizer, 2, 2)
    torch.nn.init.normal_(judge.places)
    logits = judge(batch)
    turned = judge({**batch, "images": batch["images"].flip(1)})
    assert not torch.allclose(logits, turned, atol=1e-4)
    for place in range(2):
        images = batch["images"].clone()
        images[:, place] = 0
        assert not torch.allclose(logits, judge({**batch, "images": images}), atol=1e-4)


def test_a_judge_of_one_picture_is_the_fused_cls_read(codis, tokenizer):
    judge, batch = Judge(codis, 3), asked(tokenizer)
    seen, _ = codis.towers.see(batch["images"][:, 0])
    mask = batch["attention_mask"]
    text, _ = codis.towers.read(batch["input_ids"], mask)
    wanted = judge.head(codis.fusion(text, mask, seen + judge.places[0])[:, 0])
    torch.testing.assert_close(judge(batch), wanted)
    loss = torch.nn.functional.cross_entropy(wanted, batch["label"])
    torch.testing.assert_close(judge.loss(batch)["loss"], loss)


@pytest.mark.parametrize(("classes", "pictures"), [(1, 1), (2, 0)])
def test_a_judge_needs_classes_and_pictures(codis, classes, pictures):
    with pytest.raises(ValueError, match=f"2 and 1 at least, got {classes} and {pictures}"):
        Judge(codis, classes, pictures=pictures)


def test_a_judge_refuses_another_number_of_pictures(codis, tokenizer):
    judge, batch = Judge(codis, 2, pictures=2), asked(tokenizer)
    with pytest.raises(ValueError, match=r"images: expected \(b, 2, 3, h, w\), got"):
        judge(batch)
    with pytest.raises(ValueError, match=r"images: expected \(b, 2, 3, h, w\), got"):
        judge({**batch, "images": batch["images"][:, 0]})


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_are_classes(codis, tokenizer, label):
    batch = asked(tokenizer)
    batch["label"] = torch.tensor([0, 1, label, 0])
    for task in (Judge(codis, 2), Questions(codis, ["red", "blue"], tokenizer)):
        with pytest.raises(ValueError, match=f"label: expected 0 to 1, got {label} in row 2"):
            task.loss(batch)


# questions


def test_scores_are_log_likelihoods_word_by_word(codis, tokenizer):
    model = Questions(codis, ["red", "light blue", "blue"], tokenizer).eval()
    batch = asked(tokenizer, 2)
    found = model.scores(batch)
    mask = batch["attention_mask"]
    image, _ = codis.towers.see(batch["images"][:, 0])
    fused = codis.fusion(codis.towers.read(batch["input_ids"], mask)[0], mask, image)
    for i in range(2):
        memory = fused[i, mask[i].bool()][None]
        for k, answer in enumerate(model.answers):
            ids = [CLS_ID, *tokenizer.encode(answer).ids, CLS_ID]
            total = 0.0
            for t in range(1, len(ids)):
                told = torch.tensor([ids[:t]])
                hidden = model.decoder(
                    model.words(told) + model.positions[:, :t],
                    memory,
                    tgt_mask=torch.ones(t, t).triu(1).bool(),
                )
                total += model.head(hidden)[0, -1].log_softmax(0)[ids[t]]
            torch.testing.assert_close(found[i, k], total.detach(), rtol=1e-4, atol=1e-4)


def test_answers_that_begin_alike_are_told_apart_and_learned(codis, tokenizer):
    model = Questions(codis, ["light blue", "light", "blue"], tokenizer)
    batch = asked(tokenizer, 6)
    first, last = learns(model, batch, 100)
    assert last < first / 5
    assert torch.equal(model.predict(batch), batch["label"])


def test_the_loss_is_that_of_the_right_answers(codis, tokenizer):
    model, batch = Questions(codis, ["red", "blue"], tokenizer), asked(tokenizer)
    right = model.scores(batch).gather(1, batch["label"][:, None])
    torch.testing.assert_close(model.loss(batch)["loss"], -right.mean())


def test_only_allowed_answers_are_given(codis, tokenizer):
    model, batch = Questions(codis, ["red", "light blue", "blue"], tokenizer), asked(tokenizer)
    for only in range(3):
        allowed = torch.arange(3).expand(4, 3) == only
        assert (model.predict(batch, allowed=allowed) == only).all()
    assert torch.equal(model.predict(batch), model.scores(batch).argmax(1))
    allowed[2] = False
    with pytest.raises(ValueError, match="an answer for each question, row 2 has none"):
        model.predict(batch, allowed=allowed)
    with pytest.raises(ValueError, match=r"allowed: expected bool \(4, 3\)"):
        model.predict(batch, allowed=allowed[:, :2])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "answers: expected a list of one or more"),
        ("red", "answers: expected a list of one or more"),
        (["red", "blue", "red"], "answers: expected each once, got 'red' and 'red'"),
        (["red", "Red"], "answers: expected each once, got 'red' and 'Red'"),
        (["red", "mauve"], "words that the tokenizer does not know: .*mauve"),
        (["red", "it is a light blue star is it"], "answers: expected at most 6 tokens each"),
        (["red", ""], "answers: expected a text of a word or more, got '' in place 1"),
    ],
)
def test_a_list_of_answers_is_refused(codis, tokenizer, answers, message):
    with pytest.raises(ValueError, match=message):
        Questions(codis, answers, tokenizer)


def test_a_decoder_needs_a_layer(codis, tokenizer):
    with pytest.raises(ValueError, match="layers: expected 1 at least, got 0"):
        Questions(codis, ["red"], tokenizer, layers=0)


def test_a_question_is_about_one_picture(codis, tokenizer):
    model = Questions(codis, ["red", "blue"], tokenizer)
    with pytest.raises(ValueError, match=r"images: expected \(b, 1, 3, h, w\)"):
        model.scores(asked(tokenizer, pictures=2))


# retrieval


def test_retrieval_goes_on_without_masked_words(codis, tokenizer):
    batch = asked(tokenizer)
    batch["pixel_values"] = batch.pop("images")[:, 0]
    task = Retrieval(codis)
    assert set(task.loss(batch)) == {"loss", "itm", "cross", "intra", "code"}
    task.update()
    assert codis.steps == 1


def test_retrieval_predicts_what_the_towers_and_the_match_say(codis, tokenizer):
    batch, task = asked(tokenizer, 5), Retrieval(codis)
    images, ids, mask = batch["images"][:, 0], batch["input_ids"], batch["attention_mask"]
    cosines, rows, columns = task.predict(images, ids[:3], mask[:3], k=2, part=2)
    z_image, z_text = codis.embed(
        {"pixel_values": images, "input_ids": ids, "attention_mask": mask}
    )
    torch.testing.assert_close(cosines, z_image @ z_text[:3].T)
    image, _ = codis.towers.see(images)
    text, _ = codis.towers.read(ids[:3], mask[:3])
    wanted = rerank(codis, image, text, mask[:3], cosines, k=2)
    torch.testing.assert_close(rows, wanted[0])
    torch.testing.assert_close(columns, wanted[1])
    with pytest.raises(ValueError, match="k: expected 1 to 3 candidates"):
        task.predict(images, ids[:3], mask[:3], k=4)


def test_retrieval_needs_more_than_masked_words(tokenizer):
    parts = dict.fromkeys(("itm", "cross", "intra", "code"), 0.0)
    only = Codis(tiny(13, image_size=16, width=16, **parts))
    batch = asked(tokenizer)
    batch["pixel_values"] = batch.pop("images")[:, 0]
    with pytest.raises(ValueError, match="expected one weight above 0"):
        Retrieval(only).loss(batch)
