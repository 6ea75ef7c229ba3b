"""RLlib: learning curves, policies as data, actions within the bounds of the space.

Covers `frameworks.rllib_file`, `frameworks.rllib_modules`, `frameworks.rllib_settings` and
`frameworks.rllib_training` too.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="the extra rllib is not installed")
pytest.importorskip("tree", reason="the extra rllib is not installed")
torch = pytest.importorskip("torch", reason="the extra rllib is not installed")

import rayline as rl
from rayline import train, tune
from rayline.core import registry
from rayline.core.target import Task
from rayline.testing import check_framework

QUICK = {
    "train_batch_size_per_learner": 200,
    "minibatch_size": 100,
    "num_epochs": 4,
    "lr": 0.01,
    "model_config": {"fcnet_hiddens": [16]},
}


class Sides(gymnasium.Env):  # type: ignore[misc]
    """Ten times a random number: is it small, middling or large? One point for the right answer."""

    n_actions = 3

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(self.n_actions)

    def _seen(self) -> Any:
        self._x = self.np_random.uniform(-1, 1)
        return np.array([self._x, 1.0], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._left = 10
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        right = float(self.score(action))
        self._left -= 1
        return self._seen(), right, self._left == 0, False, {}

    def score(self, action: Any) -> float:
        return int((self._x + 1) * 1.5) == action


class Aim(Sides):
    """Say the number: two actions between 10 and 20, the nearer the better."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.action_space = gymnasium.spaces.Box(np.float32([10, 10]), np.float32([20, 20]))  # type: ignore[arg-type]

    def score(self, action: Any) -> float:
        assert (np.asarray(action) >= 10).all()
        assert (np.asarray(action) <= 20).all()
        return -abs(action[0] - 15 - 5 * self._x)


def _breaking(config: Any) -> Any:
    """CartPole that breaks after some steps, in whatever process."""

    class Breaking(gymnasium.Wrapper):  # type: ignore[misc,name-defined,type-arg]
        steps = 0

        def step(self, action: Any) -> Any:
            self.steps += 1
            if self.steps > 30:
                raise ArithmeticError("the pole is gone")
            return self.env.step(action)

    return Breaking(gymnasium.make("CartPole-v1"))


def sides(**options: Any) -> train.Trainer:
    return train.RLlibTrainer("PPO", Sides, QUICK, **{"iterations": 3, "seed": 1, **options})


@pytest.mark.ray
@pytest.mark.slow
def test_contract(ray_session: Any) -> None:
    check_framework("rllib", "PPO", Sides, QUICK, iterations=3, exact=False, serve=True)


@pytest.mark.ray
@pytest.mark.slow
def test_cart_pole_is_learned_and_deployed(ray_session: Any, tmp_path: Path) -> None:
    config = {
        "train_batch_size_per_learner": 2000,
        "minibatch_size": 250,
        "num_epochs": 8,
        "lr": 3e-3,
        "model_config": {"fcnet_hiddens": [32, 32]},
    }
    trainer = train.RLlibTrainer("PPO", "CartPole-v1", config, iterations=12, stop={"episode_return_mean": 150}, seed=1)
    result = train.fit(trainer)
    curve = result.history["episode_return_mean"]
    assert curve[0] < 40
    assert result.metrics["episode_return_mean"] == curve[-1] > 4 * curve[0]
    assert trainer.fitted_model is result.fitted_model

    # Played by the pipeline that was saved and loaded, without exploration.
    result.inference_pipeline.save(tmp_path / "pole.rayline")
    policy = rl.load(tmp_path / "pole.rayline")
    world = gymnasium.make("CartPole-v1")
    total = 0.0
    for episode in range(3):
        seen, _ = world.reset(seed=episode)
        over = False
        while not over:
            action = policy.predict([{"observation": seen.tolist()}])[0]["prediction"]
            seen, reward, ended, cut, _ = world.step(action)
            over, total = ended or cut, total + float(reward)
    assert total / 3 > 100

    import httpx

    deployment = rl.serve.to_deployment(policy, name="pole", ray_actor_options={"num_cpus": 0.5})
    try:
        deployment.deploy()
        rows = [{"observation": [float(x) for x in seen]}, {"observation": [0.0, 0.0, 0.1, 0.0]}]
        answer = httpx.post(f"{deployment.url}/predict", json=rows, timeout=60).json()
        assert answer["predictions"] == [row["prediction"] for row in policy.predict(rows)]
        assert httpx.post(f"{deployment.url}/predict", json=[{"observation": [1.0]}], timeout=60).status_code == 422
    finally:
        deployment.delete()


@pytest.mark.ray
def test_a_fit_without_data(ray_session: Any, tmp_path: Path) -> None:
    kept = train.ModelCheckpoint(tmp_path, every=2)
    result = sides(iterations=4).fit(callbacks=[kept, train.EarlyStopping("episode_return_mean", patience=9)])
    assert result.history["iteration"].to_list() == [0, 1, 2, 3]
    assert result.history["env_steps"].to_list() == [200, 400, 600, 800]
    assert result.history["episode_return_mean"][-1] > result.history["episode_return_mean"][0]
    assert result.model.target.task is Task.MULTICLASS
    assert result.model.schema == {"observation": pl.Array(pl.Float32, 2)}
    assert result.model.examples.height == 5  # type: ignore[union-attr]
    assert [p.name for p in tmp_path.iterdir()] == ["iteration-000003"]
    again = registry.framework("rllib").load(tmp_path / "iteration-000003")
    pairs = zip(again.state_dict().values(), result.fitted_model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)

    # Probabilities are the module's own distribution; rows, tables and lists agree; so does the bare module.
    rows = [{"observation": [x, 1.0]} for x in np.linspace(-1, 1, 9)]
    logits = result.fitted_model.forward_inference({"obs": torch.tensor([r["observation"] for r in rows]).float()})
    expected = logits["action_dist_inputs"].double().softmax(dim=1).detach().numpy()
    table = pl.DataFrame(rows)
    assert np.allclose(result.inference_pipeline.predict_proba(table).to_numpy(), expected, atol=1e-6)
    chosen = result.inference_pipeline.predict(table)["prediction"].to_list()
    assert chosen == expected.argmax(axis=1).tolist()
    assert [result.inference_pipeline.predict([row])[0]["prediction"] for row in rows] == chosen
    from rayline.inference.pipeline import as_pipeline

    assert as_pipeline(result.fitted_model).predict(table)["prediction"].to_list() == chosen
    for wrong in ([{"observation": [1.0]}], [{"observation": ["a", "b"]}], [{"seen": [1.0, 1.0]}]):
        with pytest.raises(rl.SchemaError):
            result.inference_pipeline.predict(wrong)
    with pytest.raises(rl.DataError, match="missing or not finite"):
        result.inference_pipeline.predict([{"observation": None}])
    with pytest.raises(rl.ParameterError, match="trained without one"):
        result.preprocessor  # noqa: B018


@pytest.mark.ray
def test_numbers_stay_within_the_bounds(ray_session: Any, tmp_path: Path) -> None:
    result = train.RLlibTrainer("PPO", Aim, QUICK, iterations=2, seed=1).fit()
    assert result.model.target.columns == ("action_0", "action_1")
    rows = pl.DataFrame({"observation": [[x, 1.0] for x in np.linspace(-1, 1, 9)]})
    found = result.inference_pipeline.predict(rows)
    assert found.columns == ["prediction_action_0", "prediction_action_1"]
    assert ((found.to_numpy() >= 10) & (found.to_numpy() <= 20)).all()
    # Against RLlib's own connector.
    from ray.rllib.utils.spaces.space_utils import unsquash_action

    module = result.fitted_model
    inputs = module.forward_inference({"obs": torch.tensor(rows["observation"].to_list()).float()})[
        "action_dist_inputs"
    ]
    means = inputs[:, :2].detach().numpy()
    expected = np.stack([unsquash_action(mean, module.action_space) for mean in means])
    assert np.allclose(found.to_numpy(), expected, atol=1e-5)
    result.inference_pipeline.save(tmp_path / "aim.rayline")
    assert rl.load(tmp_path / "aim.rayline").predict(rows).equals(found)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "world"), [("DQN", Sides), ("SAC", Aim), ("APPO", Sides), ("IMPALA", Sides)])
def test_other_algorithms(ray_session: Any, tmp_path: Path, algorithm: str, world: Any) -> None:
    config = {"train_batch_size_per_learner": 32, "model_config": {"fcnet_hiddens": [8]}}
    if algorithm in ("DQN", "SAC"):
        config |= {"num_steps_sampled_before_learning_starts": 50}
    result = train.RLlibTrainer(algorithm, world, config, iterations=2, seed=1).fit()
    assert result.history.height == 2
    result.inference_pipeline.save(tmp_path / "p.rayline")
    rows = result.model.examples
    assert rows is not None
    assert rl.load(tmp_path / "p.rayline").predict(rows).equals(result.inference_pipeline.predict(rows))


@pytest.mark.ray
def test_it_stops_when_it_is_good_enough(ray_session: Any) -> None:
    result = sides(iterations=50, stop={"episode_return_mean": 4.5}).fit()
    assert result.history["episode_return_mean"][-1] >= 4.5
    assert result.history.height < 50
    with pytest.raises(rl.ParameterError, match="did you mean"):
        sides(stop={"episode_return": 4}).fit()


@pytest.mark.ray
@pytest.mark.slow
def test_trials_with_workers_of_their_own(ray_session: Any) -> None:
    trainer = train.RLlibTrainer("PPO", "CartPole-v1", QUICK, iterations=1, num_workers=1)
    analysis = tune.run(trainer, config={"lr": tune.grid_search([1e-3, 5e-3])}, num_samples=1, seed=3, verbose=False)
    assert [trial.status for trial in analysis.trials] == ["finished"] * 2


@pytest.mark.ray
@pytest.mark.slow
def test_tuning_trains_and_compares(ray_session: Any) -> None:
    analysis = tune.run(
        sides(seed=None), {"cv": 2}, config={"lr": tune.grid_search([1e-5, 0.02])}, num_samples=1, seed=3, verbose=False
    )
    assert analysis.metric == "episode_return_mean"
    assert analysis.mode == "max"
    assert analysis.best_config == {"lr": 0.02}
    assert analysis.results.select("fold_0", "fold_1").null_count().row(0) == (0, 0)
    curves = analysis.learning_curves()
    assert curves.height == 6
    # The best model is the first training of the best trial once more.
    assert analysis.best_result.history["episode_return_mean"].to_list() == [
        row["episode_return_mean"] for row in analysis.best_trial.histories[0]
    ]
    with pytest.raises(rl.ParameterError, match="no predictions of held-out rows"):
        analysis.oof  # noqa: B018


@pytest.mark.ray
@pytest.mark.slow
def test_workers_sample_and_a_lost_one_is_replaced(ray_session: Any, tmp_path: Path) -> None:
    def marked(config: Any) -> Any:
        """CartPole that tells in which process it is played."""

        class Marked(gymnasium.Wrapper):  # type: ignore[misc,name-defined]
            def step(self, action: Any) -> Any:
                (tmp_path / str(os.getpid())).touch()
                return self.env.step(action)

        return Marked(gymnasium.make("CartPole-v1"))

    class Kill(train.Callback):
        killed = 0

        def on_iteration(self, run: Any, iteration: int, metrics: Mapping[str, float]) -> None:
            if iteration == 1:
                marks = sorted(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime)
                pid = next(int(p.name) for p in reversed(marks) if int(p.name) != os.getpid())
                os.kill(pid, signal.SIGKILL)
                self.killed = pid

    trainer = train.RLlibTrainer("PPO", marked, QUICK, iterations=4, num_workers=1, max_failures=1, seed=1)
    result = trainer.fit(callbacks=[kill := Kill()])
    assert kill.killed
    assert result.history.height == 4
    assert result.history["env_steps"].to_list()[-1] >= 800
    with pytest.raises(rl.TrainingError, match="rllib failed"):
        train.RLlibTrainer("PPO", marked, QUICK, iterations=4, num_workers=1).fit(callbacks=[Kill()])


@pytest.mark.ray
@pytest.mark.parametrize("workers", [None, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_of_the_environment_reaches_the_user(ray_session: Any, workers: int | None) -> None:
    failing = train.RLlibTrainer("PPO", _breaking, QUICK, iterations=2, num_workers=workers)
    with pytest.raises(rl.TrainingError, match="ArithmeticError") as caught:
        failing.fit()
    assert "the pole is gone" in str(caught.value)
    assert ("on a worker" in str(caught.value)) is (workers is not None)


# -- without training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("PPOO", Sides), {}, "algorithm has a wrong value"),
        (("PPO",), {}, "no environment is given"),
        (("PPO", "CartPole-v77"), {}, "cannot be made"),
        (("PPO", Sides, {"lrr": 1}), {}, "unknown parameter 'lrr'"),
        (("PPO", Sides, {"minibatch_size": 10**6}), {}, "RLlib refuses the settings"),
        (("PPO", Sides, {"num_env_runners": 2}), {}, "num_workers"),
        (("PPO", Sides, {"model_config": {"use_lstm": True}}), {}, "recurrent state"),
        (("PPO", Sides), {"iterations": 0}, "iterations"),
        (("PPO", Sides), {"stop": 100}, "stop"),
        (("PPO", Sides), {"epochs": 3}, "unknown parameter 'epochs'"),
    ],
)
def test_wrong_arguments_are_refused_by_the_constructor(arguments: Any, options: Any, words: str) -> None:
    with pytest.raises(rl.ParameterError, match=words):
        train.RLlibTrainer(*arguments, **options)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"train_dataset": pl.DataFrame({"x": [1.0]})}, {}),
        ({"target_columns": ["x"]}, {}),
        ({"preprocessor": rl.Preprocessor()}, {}),
        ({"metrics": ["accuracy"]}, {}),
        ({}, {"class_weight": "balanced"}),
    ],
)
def test_data_is_refused(given: dict[str, Any], options: dict[str, Any]) -> None:
    name = next(iter([*given, *options]))
    with pytest.raises(rl.ParameterError, match=f"generates its own data, and {name} is given"):
        sides(**options).fit(**given)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "words"),
    [
        (gymnasium.spaces.Discrete(3), gymnasium.spaces.Discrete(2), "observations are of"),
        (gymnasium.spaces.Box(0, 1, (2,)), gymnasium.spaces.MultiDiscrete([2, 2]), "actions are of"),
        (gymnasium.spaces.Box(0, 1, (2,)), gymnasium.spaces.Discrete(2, start=1), "actions are of"),
    ],
)
def test_other_spaces_are_refused(observation_space: Any, action_space: Any, words: str) -> None:
    class Other(Sides):
        def __init__(self, config: Any = None) -> None:
            self.observation_space, self.action_space = observation_space, action_space

    with pytest.raises(rl.ParameterError, match=words):
        train.RLlibTrainer("PPO", Other).fit()


def test_settings_become_rllibs_own() -> None:
    trainer = sides().replace({"lr": 0.5, "iterations": 9})
    assert trainer.kwargs["config"]["lr"] == 0.5
    assert trainer.kwargs["iterations"] == 9
    assert QUICK["lr"] == 0.01
    with pytest.raises(rl.ParameterError, match="unknown parameter 'depth'"):
        sides().replace({"depth": 3})
    from ray.rllib.algorithms.ppo import PPOConfig

    own = PPOConfig().environment(Sides).training(lr=0.25)
    assert repr(train.RLlibTrainer(own, iterations=2)).startswith("RLlibTrainer(")


def test_without_it_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None\nfrom rayline import train\n"
        "try: train.RLlibTrainer('PPO', 'CartPole-v1')\nexcept ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("MissingExtraError RLlibTrainer needs the package 'ray[rllib]'")
    assert "pip install 'rayline[rllib]'" in done.stdout


# -- files -------------------------------------------------------------------------------------------------------------


def untrained(cls: Any = None, config: Any = None) -> Any:
    from rayline.frameworks import rllib_file
    from rayline.frameworks import rllib_modules as modules

    world = Sides()
    found = cls or rllib_file._loaded("DefaultPPOTorchRLModule")
    return modules.build(found, world.observation_space, world.action_space, config or {"fcnet_hiddens": [4]})


def test_a_file_that_is_not_what_it_says(tmp_path: Path) -> None:
    adapter = registry.framework("rllib")
    with pytest.raises(rl.ArtifactError, match="incomplete"):
        adapter.load(tmp_path)
    adapter.save(untrained(), tmp_path)
    about = json.loads((tmp_path / "policy.json").read_text())
    assert {p.name for p in tmp_path.iterdir()} == {"policy.json", "policy.safetensors"}
    for change in (  # type: ignore[var-annotated]
        {"module": "os.system"},
        {"model_config": {"fcnet_hiddens": [5]}},
        {"model_config": {"fcnet_hiddens": [1 << 30]}},
        {"model_config": {"fcnet_hiddens": [4], "custom": "os:system"}},
        {"model_config": 3},
        {"action_space": {"type": "Discrete", "n": 7}},
        {"observation_space": {"type": "Dict"}},
        {"normalizes": None, "clips": []},
    ):
        (tmp_path / "policy.json").write_text(json.dumps({**about, **change}))
        if "normalizes" in change:
            adapter.load(tmp_path)
            continue
        with pytest.raises(rl.ArtifactError):
            adapter.load(tmp_path)


def test_a_policy_of_ones_own_needs_its_class(tmp_path: Path) -> None:
    from ray.rllib.core.rl_module.torch import TorchRLModule

    from rayline.frameworks.rllib import register_rl_module

    class Straight(TorchRLModule):  # type: ignore[misc]
        def setup(self) -> None:
            self.layer = torch.nn.Linear(math.prod(self.observation_space.shape), int(self.action_space.n))

        def _forward(self, batch: Any, **kwargs: Any) -> Any:
            return {"action_dist_inputs": self.layer(batch["obs"])}

    adapter = registry.framework("rllib")
    made = untrained(Straight, {"note": "plain"})
    adapter.save(made, tmp_path)
    with pytest.raises(rl.ArtifactError, match="'Straight', which is not known here"):
        adapter.load(tmp_path)
    assert torch.equal(adapter.load(tmp_path, module=Straight).layer.weight, made.layer.weight)
    register_rl_module(Straight)
    assert torch.equal(adapter.load(tmp_path).layer.weight, made.layer.weight)
    with pytest.raises(rl.ParameterError, match="register_rl_module"):
        register_rl_module(int)
    made.model_config["initializer"] = print
    with pytest.raises(rl.ArtifactError, match="cannot be saved as data"):
        adapter.save(made, tmp_path)
