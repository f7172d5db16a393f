"""What the names of columns give away: secrets, and times of the last change."""

from __future__ import annotations

import re

import pytest

from loadsheet.authoring import advice


@pytest.mark.parametrize(
    "name",
    "password passwd user_password passwordHash password_hash password_salt pwd api_key apiKey"
    " secret client_secret token access_token refreshToken token_hash SSN ssn"
    " social_security_number card_number CardNumber credit_card_no cc_number cvv iban pin pin_code"
    " private_key otp totp_secret credentials account_number passport_no".split(),
)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    assert advice.looks_secret(name)


@pytest.mark.parametrize(
    "name",
    "tokens_used token_count tokenizer password_changed_at passenger_id key primary_key order_key"
    " keyboard card_id card pinned spin shipping boarding_no account_id secretary is_secretary hash"
    " email number compass".split(),
)
def test_what_only_resembles_one_is_carried(name: str) -> None:
    assert not advice.looks_secret(name)


@pytest.mark.parametrize(
    "name",
    "updated_at updatedAt UPDATED_AT update_time last_update last_updated modified modified_on"
    " date_modified last_modified_date row_updated_ts changed_at sys_updated_on write_date mtime"
    " upd_ts LastModified".split(),
)
def test_a_time_of_change_is_known_by_its_name(name: str) -> None:
    assert advice._UPDATED.fullmatch(advice._plain(name))


@pytest.mark.parametrize(
    "name", "created_at at paid_at valid_from model update_count changed_by deleted_at".split()
)
def test_another_time_is_none_of_change(name: str) -> None:
    assert not advice._UPDATED.fullmatch(advice._plain(name))
    assert bool(advice._CREATED.fullmatch(advice._plain(name))) == (name == "created_at")


def test_the_patterns_take_no_time_on_long_names() -> None:
    for pattern in (advice._UPDATED, advice._CREATED, advice._SECRET):
        assert not re.compile(pattern).search("last_date_time_" * 40 + "x")
