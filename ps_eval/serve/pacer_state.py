"""The prices on disk: a restart does not forget them, and no two gateways share a file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

from ps_alloc import Pacer
from ps_alloc.files import read_json, write_json
from ps_eval.serve.lanes import Lanes
from ps_eval.serve.pacing import taken_over

OTHERS = "others"
"""In the file: the states of other lanes and of named keys, by lane and name."""


class StateFile:
    """A gateway's file, locked for as long as the process lives."""

    def __init__(self, path: Path) -> None:
        """Take the file.

        Raises:
            ValueError: If another gateway has it, it cannot be written, or it is damaged.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
            if path.exists():
                os.close(os.open(path, os.O_RDWR))
        except OSError as error:
            raise ValueError(f"state must be a file that can be written, {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ValueError(
                f"{path} is in use by another gateway: each needs a state file of its own"
            ) from None
        try:
            self._saved = self._read()
        except ValueError:
            self.close()
            raise

    def close(self) -> None:
        """Let another gateway have it."""
        os.close(self._lock)

    @property
    def is_new(self) -> bool:
        """Nothing was saved yet."""
        return self._saved is None

    def restore(self, pacer: Pacer, name: str | None = None) -> Pacer:
        """A pacer of these settings that goes on where the file was written; `pacer` itself where it was not.

        The price and the counts are the file's. The settings are the pacer's: the target may have changed.

        Args:
            pacer: With the settings of today.
            name: Of another lane or a key; None: the default lane's.

        Raises:
            ValueError: If the file is damaged.
        """
        state = self._saved if name is None else (self._saved or {}).get(OTHERS, {}).get(name)
        if state is None:
            return pacer
        return restored(self.path, state, pacer)

    def restore_lanes(self, lanes: Lanes) -> None:
        """Every account goes on where the file was written."""
        for key, account in _accounts(lanes).items():
            account.pacer = self.restore(account.pacer, key)

    def save(self, lanes: Lanes) -> None:
        """Write all states, whole or not at all.

        Raises:
            OSError: If that cannot be done.
        """
        states = {key: account.pacer.state_dict() for key, account in _accounts(lanes).items()}
        default = states.pop(None)
        write_json(self.path, {**default, OTHERS: states} if states else default)

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        state = read_json(self.path)
        if not isinstance(state, dict):
            raise ValueError(f"{self.path} must hold a pacer's state, got a {type(state).__name__}")
        others = state.get(OTHERS, {})
        if not isinstance(others, dict) or not all(isinstance(one, dict) for one in others.values()):
            raise ValueError(f"{self.path} must hold a pacer's state: {OTHERS} must be an object of objects")
        return state


def restored(path: Path, state: dict[str, Any], pacer: Pacer) -> Pacer:
    """`pacer`'s settings with `state`'s price and counts."""
    try:
        return Pacer.from_state_dict(taken_over(state, pacer))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} must hold a pacer's state: {error}") from error


def _accounts(lanes: Lanes) -> dict[str | None, Any]:
    accounts: dict[str | None, Any] = {None: lanes.default.budgets.accounts.shared}
    for lane in lanes.all:
        own = lane.budgets.accounts
        if lane is not lanes.default:
            accounts[own.shared.name] = own.shared
        accounts |= {f"{own.shared.name}/{name}": account for name, account in own.named.items()}
    return accounts
