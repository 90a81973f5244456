from dataclasses import replace

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.augment import HorizontalFlip, augmentation
from landscape.trainers.contrastive import contrastive_outcome, nt_xent_task
from landscape.trainers.examples import Examples, evaluate
from landscape.trainers.learnability import child_seeds, fixed_views, learnability
from landscape.trainers.models import cnn
from landscape.trainers.stacking import stack
from landscape.trainers.training import Plan, fit

NUM, OBJECTS, AUGMENTATIONS, COPIES = 14, 6, 3, 2
AUGMENT = augmentation("shift", (1, 8, 8))


def new_examples():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(NUM, 1, 8, 8, generator=generator)
    return Examples(images, torch.arange(NUM) % 3)


def new_stack(outputs=3):
    models = []
    for seed in range(COPIES):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(cnn(1, 2, outputs))
    return stack(models)


def new_views(examples, **changed):
    chosen = {
        "num_uniforms": AUGMENT.num_uniforms,
        "num_objects": OBJECTS,
        "num_augmentations": AUGMENTATIONS,
        "seed": 5,
    } | changed
    return fixed_views(examples, AUGMENT, **chosen)


def run(shown=None, **changed):
    examples = new_examples()
    plan = Plan(
        **{
            "steps": 6,
            "learning_rate": [0.1] * COPIES,
            "batch_size": 5,
            "seeds": child_seeds(1, COPIES),
            "loss": "cross_entropy",
            "augment": AUGMENT,
            "num_uniforms": AUGMENT.num_uniforms,
            "chunk": COPIES,
        }
        | changed
    )
    outputs = 4 if plan.views == 2 else 3
    evaluations = {} if shown is None else {"views": shown.examples}
    return fit(new_stack(outputs), plan, examples, evaluations)


def recorded(fixed, **changed):
    trained = run(fixed, evaluate_at=range(0, 6, 3), record=("views",), **changed)
    names = ["a", "b"]
    return trained, learnability(trained, fixed, "views", names, chance=1 / 3, steps_per_epoch=3)


def test_each_object_is_drawn_once_and_each_has_all_its_augmentations():
    examples = new_examples()
    views = new_views(examples, num_objects=NUM)
    assert views.objects.tolist() == list(range(NUM))  # without replacement: all are there
    few = new_views(examples)
    assert len(few.objects.unique()) == OBJECTS
    assert len(few.examples) == OBJECTS * AUGMENTATIONS
    assert torch.equal(few.labels, examples.targets[few.objects])
    expected = examples.targets[few.objects].repeat_interleave(AUGMENTATIONS)
    assert torch.equal(few.examples.targets, expected)


def test_a_row_is_its_own_object_under_its_own_augmentation():
    examples = new_examples()
    views = fixed_views(
        examples,
        HorizontalFlip(),
        num_uniforms=1,
        num_objects=OBJECTS,
        num_augmentations=20,
        seed=0,
    )
    rows = views.examples.inputs.view(OBJECTS, 20, 1, 8, 8)
    for index, image in zip(range(OBJECTS), examples.inputs[views.objects], strict=True):
        as_is = (rows[index] == image).flatten(1).all(1)
        flipped = (rows[index] == image.flip(-1)).flatten(1).all(1)
        assert (as_is ^ flipped).all()  # it is this object
        assert 0 < as_is.sum() < 20  # and its augmentations differ


def test_views_follow_from_the_seed_alone():
    examples = new_examples()
    first, again, other = (new_views(examples, seed=seed, views=2) for seed in (5, 5, 6))
    assert first.examples.inputs.shape == (OBJECTS * AUGMENTATIONS, 2, 1, 8, 8)
    assert torch.equal(first.examples.inputs, again.examples.inputs)
    assert not torch.equal(first.examples.inputs, other.examples.inputs)
    one, two = first.examples.inputs.unbind(1)
    assert not torch.equal(one, two)


def test_the_global_generator_is_neither_asked_nor_moved():
    torch.manual_seed(0)
    first = new_views(new_examples()).examples.inputs
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(first, new_views(new_examples()).examples.inputs)
    assert torch.equal(before, torch.get_rng_state())


def test_without_augmentation_one_view_of_each_object_is_made():
    examples = new_examples()
    views = fixed_views(
        examples, augmentation("none", (1, 8, 8)), num_uniforms=0, num_objects=4,
        num_augmentations=10, seed=0,
    )  # fmt: skip
    assert views.num_augmentations == 1
    assert torch.equal(views.examples.inputs, examples.inputs[views.objects])


@pytest.mark.parametrize("number", [0, NUM + 1])
def test_more_objects_than_there_are_examples_are_refused(number):
    with pytest.raises(RequestError, match=f"num_objects={number}"):
        new_views(new_examples(), num_objects=number)


def test_data_with_many_targets_an_example_are_refused():
    examples = Examples(torch.rand(4, 1, 8, 8), torch.zeros(4, 7, dtype=torch.int64))
    with pytest.raises(RequestError, match="7 targets"):
        new_views(examples, num_objects=2)


@pytest.mark.parametrize("contrastive", [False, True])
def test_recording_changes_neither_weights_nor_buffers(contrastive):
    changed = {}
    if contrastive:
        changed = {
            "task": nt_xent_task(0.2),
            "views": 2,
            "outcome": contrastive_outcome(0.2, AUGMENTATIONS, OBJECTS),
        }
    silent = run(**{key: value for key, value in changed.items() if key != "outcome"}).stack
    views = new_views(new_examples(), views=changed.get("views", 1))
    loud = recorded(views, **changed)[0].stack
    assert torch.equal(silent.theta, loud.theta)
    assert silent.buffers.keys() == loud.buffers.keys()
    assert any(name.endswith("running_mean") for name in loud.buffers)
    for name, buffer in silent.buffers.items():
        assert torch.equal(buffer, loud.buffers[name]), name


@pytest.fixture(scope="module")
def record():
    views = new_views(new_examples())
    return views, *recorded(views, snapshots=[3])


def test_what_is_recorded_is_the_answer_in_evaluation_mode_of_the_copies_at_that_time(record):
    views, trained, found = record
    assert found.correct.dims == ("time", "member", "object", "augmentation")
    assert found.step.values.tolist() == [0, 3, 6]
    assert found.epoch.values.tolist() == [0, 1, 2]
    assert found.object.values.tolist() == views.objects.tolist()
    for time, copies in enumerate([new_stack(), trained.at(3), trained.stack]):
        for member in range(COPIES):
            network = copies.member(member).eval()
            with torch.no_grad():
                answers = network(views.examples.inputs).argmax(1) == views.examples.targets
            own = found.correct.values[time, member]
            assert np.array_equal(own, answers.view(OBJECTS, AUGMENTATIONS).numpy())
    assert 0 < found.correct.mean() < 1


def test_the_means_are_those_of_the_single_answers(record):
    found = record[2]
    correct = found.correct.astype(float)
    for name, over in {
        "view_learnability": ["member"],
        "learnability": ["member", "augmentation"],
        "mean_learnability": ["member", "augmentation", "object"],
    }.items():
        np.testing.assert_allclose(found[name], correct.mean(over), rtol=1e-12)
    assert found.attrs["chance"] == 1 / 3
    assert found.attrs["mode"] == "evaluation"


def test_a_copy_that_diverged_is_named():
    trained, found = recorded(new_views(new_examples()), learning_rate=[0.1, 1e30])
    assert not trained.stack.theta[1].isfinite().all()
    assert found.diverged.values.tolist() == [0, 1]


def test_copies_have_seeds_of_their_own_that_other_families_do_not_share():
    seeds = child_seeds(0, 8)
    assert seeds == child_seeds(0, 10)[:8]  # more copies leave the first ones as they were
    assert len({*seeds, *child_seeds(1, 8)}) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_outcome_of_ones_own_takes_the_place_of_evaluation():
    examples = new_examples()
    seen = []

    def outcome(members, given):
        seen.append(len(given))
        return evaluate(members, given, "cross_entropy")

    plan = Plan(
        steps=2, learning_rate=[0.1] * COPIES, batch_size=7, seeds=[0, 1], loss="cross_entropy",
        chunk=1, evaluate_at=[0, 1],
    )  # fmt: skip
    usual = fit(new_stack(), plan, examples, {"all": examples})
    own = fit(new_stack(), replace(plan, outcome=outcome), examples, {"all": examples})
    assert seen == [NUM] * 3
    assert np.array_equal(usual.curves["all_loss"], own.curves["all_loss"])
