"""Jobs that need a key, and reports that never show it.

pytest -m real_world                                            the key comes from ./vault
CLUSTERJOBS_LOCAL_SIGNING_KEY=another pytest --cluster=local    from a variable, as a secret of GitHub Actions
clusterjobs check local                                         tells where it would come from
"""

import hashlib
import hmac
import os

import pytest

from pytest_clusterjobs import cluster

pytestmark = pytest.mark.real_world


def signature(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


@cluster(memory="200MB", time="00:05:00")
def sign(text: str) -> str:
    print("signing with", os.environ["SIGNING_KEY"])  # shown as: signing with ***
    return signature(os.environ["SIGNING_KEY"], text)


def test_a_job_gets_the_key_by_its_environment(cluster_credentials) -> None:
    key = cluster_credentials["SIGNING_KEY"]
    assert sign.options(env={"SIGNING_KEY": key})("text") == signature(key.reveal(), "text")


def test_a_key_shows_itself_to_nobody(cluster_credentials) -> None:
    key = cluster_credentials["SIGNING_KEY"]
    assert (str(key), key.reveal() in repr(key)) == ("***", False)


def test_a_misspelled_name_is_found(cluster_credentials) -> None:
    assert cluster_credentials.keys == ("SIGNING_KEY",)
    with pytest.raises(ValueError, match="did you mean 'SIGNING_KEY'"):
        cluster_credentials.get("SIGNING_KEYS")


def test_a_key_does_not_travel_as_an_argument(cluster_credentials) -> None:
    with pytest.raises(Exception, match="does not travel in files"):
        sign(cluster_credentials["SIGNING_KEY"])
