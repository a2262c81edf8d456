"""Settings: what an operator sets, and the one sentence for what they set wrongly."""

from pathlib import Path

import pytest

from opsagent.config import Settings, SettingsError, load_settings

FAKE_KEY = "fake-key-0123456789abcdef0123456789"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder, and none of our variables."""
    for field, info in Settings.model_fields.items():
        monkeypatch.delenv(str(info.validation_alias or field).upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_nothing_set_is_a_whole_configuration() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.slack_mode) == ("127.0.0.1", 8000, None)
    assert (settings.tongyi_model_name, settings.open_registration) == ("qwen-plus", False)
    assert settings.home.is_absolute()
    assert settings.home.name == "opsagent"
    assert settings.secret_keys == ()
    limits = (settings.max_model_calls, settings.max_tool_calls, settings.turn_timeout_s, settings.approval_expires_s)
    assert limits == (25, 50, 900, 86_400)
    assert (settings.worker_concurrency, settings.model_window_tokens) == (20, 24_000)


def test_browsers_reach_it_where_it_listens_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().base_url == "http://127.0.0.1:8000"
    for host, seen in (("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("fd00::7", "[fd00::7]")):
        monkeypatch.setenv("HOST", host)
        assert load_settings().base_url == f"http://{seen}:8000"
    monkeypatch.setenv("PUBLIC_URL", "https://opsagent.example.com/chat/")
    assert load_settings().base_url == "https://opsagent.example.com/chat"


def test_empty_or_blank_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "PORT", "DATABASE_URL", "SLACK_BOT_TOKEN", "TOOLS_DIR", "OPSAGENT_TURN_TIMEOUT_S"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("LOG_LEVEL", "  ")
    settings = load_settings()
    assert (settings.api_key, settings.database_url, settings.tools_dir) == (None, None, None)
    assert (settings.port, settings.log_level, settings.turn_timeout_s) == (8000, "INFO", 900)


def test_the_environment_wins_over_the_file_in_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, nothing_set: Path
) -> None:
    (nothing_set / ".env").write_text("PORT=9001\nAPI_KEY=from-the-file\nUNKNOWN=ignored\nOPSAGENT_MAX_TOOL_CALLS=7\n")
    monkeypatch.setenv("PORT", "9002")
    settings = load_settings()
    assert settings.port == 9002
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "from-the-file"
    assert settings.max_tool_calls == 7


def test_sizes_are_read_under_their_prefix_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_MODEL_CALLS", "3")
    monkeypatch.setenv("OPSAGENT_ASYNCPG_POOL_SIZE", "4")
    settings = load_settings()
    assert (settings.max_model_calls, settings.asyncpg_pool_size) == (25, 4)


def test_tools_secrets_are_known_by_their_names_and_kept_out_of_sight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSAGENT_TOOL_SECRET_PAGER_TOKEN", "canary-0001")
    monkeypatch.setenv("OPSAGENT_TOOL_SECRET_", "no name")
    settings = load_settings()
    assert settings.tool_secrets == {"PAGER_TOKEN": "canary-0001"}
    assert "canary-0001" in settings.secret_values


def test_private_hosts_and_networks_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSAGENT_ALLOW_HOSTS", "prometheus.internal:9090, 10.1.0.0/16")
    egress = load_settings().egress
    assert egress.names("prometheus.internal", 9090)
    assert [str(network) for network in egress.allow_cidrs] == ["10.1.0.0/16"]


@pytest.mark.parametrize(
    ("name", "value", "example"),
    [
        ("PORT", "eighty", "PORT=8000"),
        ("PORT", "70000", "PORT=8000"),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL=INFO"),
        ("TONGYI_BASE_URL", "https://dashscope.example/compatible-mode/v1", "/api/v1"),
        ("TONGYI_BASE_URL", "dashscope.example/api/v1", "TONGYI_BASE_URL=https://"),
        ("SLACK_API_URL", "slack.com/api", "SLACK_API_URL=https://slack.com/api/"),
        ("APPROVERS", "U2BOB,@carol", "APPROVERS=U0123ABCD"),
        ("APPROVERS", "Bob Smith", "APPROVERS=U0123ABCD"),
        ("TOOLS_DIR", "no-such-folder", "TOOLS_DIR=./tools"),
        ("MCP_CONFIG", "no-such-file.json", "MCP_CONFIG=./mcp.json"),
        ("OPEN_REGISTRATION", "perhaps", "OPEN_REGISTRATION=false"),
        ("PUBLIC_URL", "opsagent.example.com", "PUBLIC_URL=https://opsagent.example.com"),
        ("PUBLIC_URL", "https://opsagent.example.com/?a=b", "PUBLIC_URL=https://opsagent.example.com"),
        ("HOST", "http://localhost", "HOST=127.0.0.1"),
        ("OPSAGENT_WORKER_CONCURRENCY", "0", "OPSAGENT_WORKER_CONCURRENCY=20"),
        ("OPSAGENT_TURN_TIMEOUT_S", "long", "OPSAGENT_TURN_TIMEOUT_S=900"),
        ("OPSAGENT_SANDBOX", "loose", "OPSAGENT_SANDBOX=best_effort"),
        ("OPSAGENT_ALLOW_HOSTS", "http://inside", "OPSAGENT_ALLOW_HOSTS=prometheus.internal:9090"),
        ("OPSAGENT_ALLOW_HOSTS", "10.0.0.1/8", "OPSAGENT_ALLOW_HOSTS=prometheus.internal:9090"),
        ("OPSAGENT_REDACT", "(", "OPSAGENT_REDACT=(?i)password="),
    ],
)
def test_a_wrong_value_is_shown_with_a_right_one(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, example: str
) -> None:
    sentence = refused(monkeypatch, **{name: value})
    assert sentence.startswith(f"{name} must be ")
    assert example in sentence
    assert value.partition(",")[0] in sentence


@pytest.mark.parametrize(
    ("name", "value", "example"),
    [
        ("DATABASE_URL", "mysql://ops:canary-0001@db/ops", "DATABASE_URL=postgresql://"),
        ("DATABASE_URL", "postgresql+asyncpg://ops:canary-0001@db/ops", "DATABASE_URL=postgresql://"),
        ("DATABASE_URL", "postgresql://ops:canary-0001@db:port/ops", "DATABASE_URL=postgresql://"),
        ("SECRET_KEY", "canary-0001", "SECRET_KEY="),
        ("SECRET_KEY", f"{FAKE_KEY},canary-0001", "SECRET_KEY="),
        ("SLACK_BOT_TOKEN", "xapp-canary-0001", "SLACK_BOT_TOKEN=xoxb-"),
        ("SLACK_APP_TOKEN", "xoxb-canary-0001", "SLACK_APP_TOKEN=xapp-"),
        ("API_KEY", "canary-0001\nsecond line", "API_KEY="),
        ("TONGYI_BASE_URL", "ftp://me:canary-0001@host/api/v1", "TONGYI_BASE_URL="),
    ],
)
def test_a_wrong_secret_is_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, example: str
) -> None:
    sentence = refused(monkeypatch, **{name: value})
    assert sentence.startswith(f"{name} must be ")
    assert example in sentence
    assert "canary-0001" not in sentence


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SLACK_BOT_TOKEN": "xoxb-fake"}, "SLACK_SIGNING_SECRET"),
        ({"SLACK_APP_TOKEN": "xapp-fake"}, "SLACK_BOT_TOKEN"),
        ({"SLACK_SIGNING_SECRET": "fake"}, "SLACK_BOT_TOKEN"),
        ({"SLACK_CLIENT_ID": "1.2", "SLACK_SIGNING_SECRET": "fake"}, "SLACK_CLIENT_SECRET"),
        ({"SLACK_CLIENT_ID": "1.2", "SLACK_CLIENT_SECRET": "fake"}, "SLACK_SIGNING_SECRET"),
    ],
)
def test_half_a_slack_app_is_refused(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str) -> None:
    assert says in refused(monkeypatch, **variables)


def test_socket_mode_wins_where_both_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-fake")
    monkeypatch.setenv("SLACK_SIGNING_SECRET", "fake")
    assert load_settings().slack_mode == "http"
    monkeypatch.setenv("SLACK_APP_TOKEN", "xapp-fake")
    assert load_settings().slack_mode == "socket"


def test_lists_and_addresses_are_read_in_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPROVERS", " U2BOB, S0SRE ,,alice.b ")
    monkeypatch.setenv("SECRET_KEY", f"{FAKE_KEY}-new, {FAKE_KEY}-old")
    monkeypatch.setenv("SLACK_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("TONGYI_BASE_URL", "http://127.0.0.1:9/api/v1/")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    monkeypatch.setenv("OPSAGENT_HOME", "here")
    settings = load_settings()
    assert settings.approvers == ("U2BOB", "S0SRE", "alice.b")
    assert [key.get_secret_value() for key in settings.secret_keys] == [f"{FAKE_KEY}-new", f"{FAKE_KEY}-old"]
    assert settings.slack_api_url == "http://127.0.0.1:9/api/"
    assert settings.tongyi_base_url == "http://127.0.0.1:9/api/v1"
    assert settings.log_level == "DEBUG"
    assert settings.home == Path.cwd() / "here"


def test_a_home_below_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, nothing_set: Path) -> None:
    (nothing_set / "file").write_text("")
    assert refused(monkeypatch, OPSAGENT_HOME="file/home").startswith("OPSAGENT_HOME must be a folder")


def test_an_unreadable_file_of_settings_is_one_sentence(monkeypatch: pytest.MonkeyPatch, nothing_set: Path) -> None:
    (nothing_set / ".env").write_bytes(b"API_KEY=\xff\xfe\n")
    assert ".env" in refused(monkeypatch)


def test_every_secret_is_listed_for_the_logs_and_hidden_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "DATABASE_URL": "postgresql://ops:p%40ss-canary@db/ops",
        "API_KEY": "api-canary",
        "SECRET_KEY": f"{FAKE_KEY}-1,{FAKE_KEY}-2",
        "TONGYI_API_KEY": "model-canary",
        "SLACK_BOT_TOKEN": "xoxb-canary",
        "SLACK_APP_TOKEN": "xapp-canary",
        "SLACK_SIGNING_SECRET": "signing-canary",
        "SLACK_CLIENT_SECRET": "client-canary",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLACK_CLIENT_ID", "1.2")
    settings = load_settings()
    assert {*secrets.values(), f"{FAKE_KEY}-1", f"{FAKE_KEY}-2", "p@ss-canary"} <= set(settings.secret_values)
    assert "canary" not in repr(settings)


def test_the_example_file_names_every_setting_and_is_itself_right(nothing_set: Path) -> None:
    example = (Path(__file__).parents[3] / ".env.example").read_text()
    named = {line.partition("=")[0] for line in example.splitlines() if line and not line.startswith("#")}
    assert named == {str(info.validation_alias or field).upper() for field, info in Settings.model_fields.items()}
    without_example = load_settings()
    (nothing_set / ".env").write_text(example)
    assert load_settings() == without_example
