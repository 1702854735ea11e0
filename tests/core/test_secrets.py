"""Passwords and tokens in texts that people and files get to see."""

import pytest

from core.store.secrets import masked_url, without_secrets

URLS = {
    "postgresql://me:hunter2@host/db": "postgresql://me:***@host/db",
    "postgresql://me:p%40ss%3Aw@host:5432/db": "postgresql://me:***@host:5432/db",
    "postgresql://me:pa:ss@wo@rd@host/db": "postgresql://me:***@host/db",
    "postgresql://me:pa/ss?w#d@host/db": "postgresql://me:***@host/db",
    "postgresql://:hunter2@host/db": "postgresql://***@host/db",
    "postgresql://host/db?user=me&password=p:w@x": "postgresql://host/db?user=me&password=***",
    "mysql+pymysql://host/db?passwd=abc&ssl_key=k": "mysql+pymysql://host/db?passwd=***&ssl_key=***",
    "https://t0ken@host/x": "https://***@host/x",
    "https://host/x?Access_Token=abcdef#top": "https://host/x?Access_Token=***#top",
    "https://host/x?pass%77ord=abcdef": "https://host/x?pass%77ord=***",
    "https://host/x?pw=abcdef&code=1234&page=2": "https://host/x?pw=***&code=***&page=2",
    "https://host/x#access_token=abcdef": "https://host/x#access_token=***",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Du%3BPWD%3DS3cr3tPw": (
        "mssql+pyodbc:///?odbc_connect=***"
    ),
    "mssql+pyodbc:///?odbc_connect=DRIVER%253Dx%253BPWD%253DS3cr3tPw": (
        "mssql+pyodbc:///?odbc_connect=***"
    ),
    "https://host/x?to=postgresql%3A%2F%2Fme%3Ahunter2%40host": "https://host/x?to=***",
    "mssql://host/db;UID=u;PWD={a;b&c}": "mssql://host/db;UID=u;PWD=***",
}
HARMLESS = (
    "sqlite:////data/runs/mlflow.db",
    "postgresql://me@host/db",
    "http://localhost:5000/#/experiments/1?page=2",
    "journal:/data/study.log",
    "http://localhost:5000/x?encoding=utf-8",
)


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_masked_alone_and_in_a_text(url):
    assert masked_url(url) == URLS[url]
    assert without_secrets(f"failed ({url!r}) twice") == f"failed ({URLS[url]!r}) twice"
    assert without_secrets(URLS[url]) == URLS[url]


@pytest.mark.parametrize("url", HARMLESS)
def test_what_holds_no_secret_stays(url):
    assert masked_url(url) == url and without_secrets(f"see {url}.") == f"see {url}."


@pytest.mark.parametrize("password", ["a'b", 'a"b', "a<b", "a b", "a 'b\" <c> d"])
def test_a_password_may_hold_blanks_and_quotes_in_a_longer_text(password):
    url = f"postgresql://me:{password}@host/db"
    for text in (f"no answer from {url} today", f"no answer from '{url}' today", f'"{url}"'):
        assert without_secrets(text) == text.replace(password, "***")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("host=h password=S3cr3tPw dbname=d", "host=h password=*** dbname=d"),
        ("host=h password='S3 cr3t' dbname=d", "host=h password=*** dbname=d"),
        ("DRIVER=x;UID=u;PWD={a;b};TRUST=1", "DRIVER=x;UID=u;PWD=***;TRUST=1"),
        ("DRIVER%3Dx%3BPWD%3DS3cr3tPw%3BUID%3Du", "DRIVER%3Dx%3BPWD%3D***%3BUID%3Du"),
        ("{'user': 'u', 'password': 'S3cr3tPw'}", "{'user': 'u', 'password': ***}"),
        ("http://localhost:5000, which me@host runs", None),
        ("token_weight = 4, sigma=0.5, the password: wrong", None),
    ],
)
def test_a_connection_string_without_a_url_is_masked(text, shown):
    assert without_secrets(text) == (shown or text)


def test_a_secret_is_masked_in_every_spelling():
    url = "postgresql://me:p%40ss%3Aw@host/db?password=other-one"
    text = "p@ss:w, p%40ss%3Aw, p%40ss:w, other-one, and p@ss alone"
    assert without_secrets(text, url) == "***, ***, ***, ***, and p@ss alone"


def test_the_environment_holds_secrets_too(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim1")
    monkeypatch.setenv("SERVICE_API_KEY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cr%21t@host")
    assert without_secrets("true: geheim1 and s3cr!t") == "true: *** and ***"
