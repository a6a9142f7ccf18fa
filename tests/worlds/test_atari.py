"""The world of Atari games: the score cannot be seen, an end neither, and every clip can be played again."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.data import Episodes, Item
from backflip.errors import ConfigError, DataError, MissingExtra
from backflip.measures.atari_truth import AtariTruth, clip_correlation, points_of
from backflip.policies.scripted import ENDURO_GO, ScriptedPlayer, do, drive, meet_the_ball, players
from backflip.testing import check_world
from backflip.worlds import atari_games
from backflip.worlds.atari import AtariWorld, games_of, unpack_frames
from backflip.worlds.atari_clips import AtariFilms, colour_frames
from backflip.worlds.atari_games import GAMES, PIXELS, SCREEN, Console, find_game, play_again
from backflip.worlds.control import cut, pack

pytest.importorskip("ale_py")


def random_player(actions: int = 6) -> ScriptedPlayer:
    return ScriptedPlayer(do(0), actions, 1.0)


def rows_of(rom: str = "pong", steps: int = 60, seed: int = 0, **settings: Any) -> tuple[AtariWorld, Episodes]:
    world = AtariWorld(rom, environments=2, steps=steps, seed=seed, threads=1, **settings)
    return world, world.collect(random_player(world.actions), 2, np.random.default_rng(seed))


# -- what is seen ------------------------------------------------------------------------------------------------------


def small(picture: np.ndarray) -> np.ndarray:
    """Make a screen 84 by 84 as the emulator does: every small pixel is the mean of what it covers."""

    def shares(size: int) -> np.ndarray:
        edges = np.arange(PIXELS + 1) * size / PIXELS
        starts = np.maximum(edges[:-1, None], np.arange(size))
        ends = np.minimum(edges[1:, None], np.arange(size) + 1)
        return (ends - starts).clip(0) * PIXELS / size

    return shares(SCREEN[0]) @ picture @ shares(SCREEN[1]).T


SCORES: dict[str, dict[str, tuple[int, int]]] = {
    "pong": {"theirs": (13, 7), "ours": (14, 9)},
    "enduro": {"cars to pass": (0x2B, 0x57), "distance": (0x29, 0x33)},
}
"""Where the console keeps what it shows of the score, and another value for it."""


@pytest.mark.parametrize(("rom", "what"), [(rom, what) for rom, held in SCORES.items() for what in held])
def test_a_picture_does_not_change_when_only_the_score_does(rom: str, what: str) -> None:
    import ale_py
    from ale_py import roms

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale: Any = ale_py.ALEInterface()
    ale.loadROM(roms.get_rom_path(rom))
    ale.reset_game()
    for _ in range(200):
        ale.act(1)
    place, value = SCORES[rom][what]
    state = ale.cloneState()
    screens: list[np.ndarray] = []
    for changed in (False, True):
        ale.restoreState(state)
        if changed:
            ale.setRAM(place, value)
        for _ in range(4):
            ale.act(1)
        screens.append(ale.getScreenGrayscale().astype(np.float64))
    assert not np.array_equal(screens[0], screens[1]), "the score was not changed, so the test would say nothing"
    seen = [find_game(rom).hide(small(screen).round().astype(np.uint8)) for screen in screens]
    assert np.array_equal(seen[0], seen[1])
    assert np.ptp(seen[0]) > 50  # and there is something to see


def test_what_is_hidden_is_black_in_every_game_and_the_rest_is_not() -> None:
    for game in GAMES.values():
        console = Console(game, 1, threads=1)
        frame = console.begin(np.ones(1, dtype=bool), np.array([0]))[0]
        for _ in range(5):
            frame = console.step(np.array([1]))[0][0]
        shown = np.ones(PIXELS, dtype=bool)
        for lines in game.hidden_lines:
            assert not frame[lines].any(), game.name
            shown[lines] = False
        assert frame[shown].any(1).mean() > 0.5, game.name


@pytest.fixture
def short_games(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the emulator end every game after 480 frames: 120 decisions."""
    monkeypatch.setattr(atari_games, "LONGEST", 480)


def test_rows_are_bytes_and_a_new_game_begins_in_the_middle_of_one(short_games: None) -> None:
    world, rows = rows_of(steps=150)
    assert rows.obs.shape == (2, 151, PIXELS, PIXELS) and rows.obs.dtype == torch.uint8
    assert rows.mask_BT.all() and rows.scene is not None
    for scene in rows.scene.numpy():
        begins = np.flatnonzero(np.diff(scene[:, 0])) + 1
        assert begins.tolist() == [120] and (scene[begins, 1] == 0).all()
        assert (np.delete(np.diff(scene[:, 1]), begins - 1) == 1).all()
    seeds = rows.scene[0, [0, -1], 0].tolist()
    at = int(np.flatnonzero(rows.scene[0, :, 0] == seeds[1])[0])
    plays = [rows.action[0, :at].tolist(), rows.action[0, at:].tolist()]
    old, new = (
        list(play_again(Console(world.game, 1, threads=1), seed, actions))
        for seed, actions in zip(seeds, plays, strict=True)
    )
    assert np.array_equal(rows.obs[0, at].numpy(), new[0][0])  # and not the last picture of the old one
    clip = cut_at(rows, 0, at - 90, 115)
    assert clip.scene is not None and [seed for seed, _ in games_of(clip.scene[0].numpy())] == seeds
    item = world.show(clip)[0]
    gained = [points for _, points in old[-90:] + new[1:26]]
    assert AtariTruth(world.game)(item).tolist() == gained and -1 in gained
    assert colour_frames(item).shape == (116, 210, 160, 3)


def cut_at(rows: Episodes, row: int, start: int, steps: int) -> Episodes:
    """Return one clip of a row."""
    assert rows.scene is not None
    return Episodes(
        rows.obs[row : row + 1, start : start + steps + 1],
        rows.action[row : row + 1, start : start + steps],
        rows.mask_BT[row : row + 1, start : start + steps],
        None,
        torch.zeros(1),
        torch.zeros(1, dtype=torch.long),
        scene=rows.scene[row : row + 1, start : start + steps + 1],
    )


# -- the world's promises ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rom", ["pong", "enduro"])
def test_it_keeps_the_promises_of_a_world(rom: str) -> None:
    world = AtariWorld(rom, environments=2, steps=20, seed=3, threads=1)
    check_world(world, players(rom, world.actions)[list(players(rom, 1))[-1]], 4)


def test_it_goes_on_where_it_was_saved_though_games_are_of_unlike_lengths() -> None:
    world, _ = rows_of(steps=20, seed=1)
    state = json.loads(json.dumps(world.state_dict()))
    games = {seed: list(world.played[seed]) for seed in world.seed_E.tolist()}
    expected = world.collect(random_player(), 2, np.random.default_rng(5))
    other = AtariWorld("pong", environments=2, steps=20, seed=99, threads=1)
    other.load_state_dict(state)
    again = other.collect(random_player(), 2, np.random.default_rng(5))
    assert torch.equal(again.obs, expected.obs) and torch.equal(again.scene, expected.scene)  # type: ignore[arg-type]
    for lengths in ((20, 7), (0, 20), (3, 0), (0, 0)):
        for one, (seed, actions), length in zip(state["games"], games.items(), lengths, strict=True):
            one["played"] = pack(np.array(actions[:length], dtype=np.uint8))
            assert one["seed"] == seed
        other.load_state_dict(state)
        for frame, (seed, actions), length in zip(other.frame_E, games.items(), lengths, strict=True):
            played = list(play_again(Console(world.game, 1, threads=1), seed, actions[:length]))
            assert len(played) == length + 1 and np.array_equal(frame, played[-1][0]), lengths
    with pytest.raises(DataError, match=r"2 games of pong in rows of 20 .* resume with the same settings"):
        AtariWorld("pong", environments=1, steps=20, threads=1).load_state_dict(state)


def test_equal_seeds_play_equal_games_and_others_do_not() -> None:
    (_, one), (_, same), (_, other) = (rows_of(steps=30, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(one.obs, same.obs) and not torch.equal(one.obs, other.obs)


def test_a_policy_sees_the_last_four_pictures_of_the_row() -> None:
    world, seen = AtariWorld("pong", environments=1, steps=6, threads=1), list[torch.Tensor]()
    player = random_player()

    class Watching:
        def act(self, obs: torch.Tensor, rng: np.random.Generator) -> Any:
            seen.append(obs.clone())
            return player.act(obs, rng)

    rows = world.collect(Watching(), 1, np.random.default_rng(0))  # type: ignore[arg-type]
    assert [one.shape[1] for one in seen] == [1, 2, 3, 4, 4, 4, 4]  # and once more for the value
    assert all(torch.equal(one, rows.obs[:, max(0, k - 3) : k + 1]) for k, one in enumerate(seen))


def test_a_loaded_clip_of_a_later_moment_does_not_move_a_game_that_is_going_on() -> None:
    """After a kill a world is back at its last saved state, and clips that were asked about later are loaded."""
    world, _ = rows_of(steps=30)
    state = json.loads(json.dumps(world.state_dict()))
    later = world.show(world.collect(random_player(), 2, np.random.default_rng(1)))
    expected = AtariWorld("pong", environments=2, steps=30, threads=1)
    expected.load_state_dict(state)
    world.load_state_dict(state)
    assert [item.id for item in world.show(world.load(later))] == [item.id for item in later]
    mine, theirs = (one.collect(random_player(), 2, np.random.default_rng(2)) for one in (world, expected))
    assert torch.equal(mine.obs, theirs.obs) and torch.equal(mine.scene, theirs.scene)  # type: ignore[arg-type]


# -- items -------------------------------------------------------------------------------------------------------------


def test_an_item_holds_pictures_and_actions_and_no_points() -> None:
    world, rows = rows_of()
    item = world.show(cut(rows, 25, 1, np.random.default_rng(0)))[0]
    assert set(item.payload) == {"frames", "action", "scene", "played", "sticky"}
    assert (item.prompt, item.content, item.media) == ("Pong", "25 decisions of Pong", "clip")
    with pytest.raises(DataError, match="no clip of Pong"):
        world.load([replace(item, prompt="Enduro")])
    with pytest.raises(DataError, match="no items"):
        world.load([])
    with pytest.raises(DataError, match="one length"):
        world.load([item, *world.show(rows)])
    with pytest.raises(DataError, match="carry no scene"):
        world.show(replace(rows, scene=None))
    with pytest.raises(DataError, match="show rows in the world they are from"):
        AtariWorld("pong", environments=1, steps=5, seed=8, threads=1).show(rows)
    with pytest.raises(DataError, match=r"expected bytes, \(pictures, 84, 84\)"):
        unpack_frames(pack(np.zeros((2, 2))))


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_points_are_those_that_the_emulator_gave(sticky: float) -> None:
    world, rows = rows_of(steps=125, sticky=sticky)
    gained = np.zeros((2, 125))
    for row in range(2):
        seed = int(rows.scene[row, 0, 0])  # type: ignore[index]
        steps = play_again(Console(world.game, 1, sticky=sticky, threads=1), seed, rows.action[row].tolist())
        gained[row] = [points for _, points in steps][1:]
    assert gained.min() == -1 and -12 < gained.sum() < -1
    truth = AtariTruth(world.game)
    for row, start in ((0, 90), (0, 20), (1, 60)):
        item = world.show(cut_at(rows, row, start, 25))[0]
        np.testing.assert_array_equal(truth(item), gained[row, start : start + 25])
    whole = world.show(rows)
    np.testing.assert_array_equal(points_of(truth, whole), gained.sum(1))


def test_a_film_is_in_colour_and_of_the_same_game_or_it_is_refused(tmp_path: Path) -> None:
    world, rows = rows_of(steps=40, sticky=0.25)
    item = world.show(cut_at(rows, 1, 10, 12))[0]
    frames = colour_frames(item)
    assert frames.shape == (13, 210, 160, 3) and np.ptp(frames.astype(int), axis=3).max() > 50
    other = dict(item.payload, sticky=0.0)
    with pytest.raises(DataError, match=r"played again looks otherwise .*constraints.txt"):
        colour_frames(replace(item, payload=other))
    with pytest.raises(DataError, match="no clip of a game"):
        colour_frames(Item("Hopper-v5", "", {}, media="clip"))
    pytest.importorskip("imageio")
    films = AtariFilms(tmp_path)
    path = films(item)
    assert path.stat().st_size > 1000 and films(item) == path == tmp_path / f"{item.id}.mp4"


def test_correlation_has_fishers_interval() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        x = rng.normal(size=40)
        found = clip_correlation(0.6 * x + 0.8 * rng.normal(size=40), x)
        inside += found.low < 0.6 < found.high
    assert 0.9 < inside / 200 < 0.99
    with pytest.raises(DataError, match="same score"):
        clip_correlation(np.ones(5), np.arange(5))
    with pytest.raises(DataError, match="at least four"):
        clip_correlation([1.0, 2.0], [1.0, 2.0])


# -- players -----------------------------------------------------------------------------------------------------------


def test_players_spread_the_score() -> None:
    def points(rom: str, player: ScriptedPlayer, steps: int) -> float:
        console, rng = Console(find_game(rom), 2, threads=1), np.random.default_rng(0)
        frames = [console.begin(np.ones(2, dtype=bool), np.array([1, 2]))]
        total = 0.0
        for _ in range(steps):
            obs = torch.from_numpy(np.stack([frames[-min(2, len(frames))], frames[-1]], axis=1))
            frame, gained, _ = console.step(player.act(obs, rng).action[:, 0].numpy())
            frames.append(frame)
            total += float(gained.sum())
        return total

    assert points("pong", ScriptedPlayer(meet_the_ball(0.0), 6, 0.02), 150) > points("pong", random_player(), 150) + 3
    assert points("enduro", random_player(9), 150) == 0
    assert points("enduro", ScriptedPlayer(drive(4.0), 9, 0.05), 200) > 3
    with pytest.raises(ConfigError, match="expected one of pong, enduro"):
        players("qbert", 6)
    with pytest.raises(ConfigError, match="slips with probability 0"):
        ScriptedPlayer(do(0), 6, 0.0)


def test_a_players_log_probabilities_are_those_of_what_it_does() -> None:
    player = ScriptedPlayer(do(ENDURO_GO), 9, 0.3)
    act = player.act(torch.zeros(20_000, 1, 2, 2, dtype=torch.uint8), np.random.default_rng(0))
    share = float((act.action == ENDURO_GO).float().mean())
    assert share == pytest.approx(0.7 + 0.3 / 9, abs=0.01)
    assert float(act.logp_BT[act.action == ENDURO_GO].mean()) == pytest.approx(np.log(0.7 + 0.3 / 9), abs=1e-5)
    _, rows = rows_of("enduro", steps=20)
    other = random_player(9)
    assert float(player.kl_BT(player, rows).abs().max()) == 0
    evaluation = player.evaluate(rows)
    by_hand = evaluation.entropy_BT.numpy() + player.probability_BTA(rows) @ np.log(np.full(9, 1 / 9))
    np.testing.assert_allclose(player.kl_BT(other, rows).numpy(), -by_hand, atol=1e-5)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_bad_settings_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match='did you mean "pong"'):
        AtariWorld("Pong", environments=1, steps=5)
    with pytest.raises(ConfigError, match="rows of 0 steps"):
        AtariWorld("pong", environments=1, steps=0)
    with pytest.raises(ConfigError, match="0 games with sticky"):
        AtariWorld("pong", environments=0, steps=5)
    world = AtariWorld("pong", environments=2, steps=5, threads=1)
    with pytest.raises(ConfigError, match="3 rows from 2 games"):
        world.collect(random_player(), 3, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="chose action"):
        world.collect(random_player(60), 2, np.random.default_rng(0))
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(MissingExtra, match=r"pip install 'backflip\[atari\]'"):
        AtariWorld("pong", environments=1, steps=5)


def test_the_emulator_says_nothing_of_its_own() -> None:
    code = "from backflip.worlds.atari import AtariWorld; AtariWorld('pong', environments=1, steps=5, threads=1)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
