"""What a log line may show."""

import pytest
import structlog

from proxysite import logs


@pytest.mark.parametrize("readable", [True, False])
def test_a_logged_exception_shows_no_local_variable(readable: bool, capfd: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        logs.configure(readable=readable)
        token = "sk-canary-" + "77aa"
        try:
            raise ValueError("boom")
        except ValueError:
            structlog.get_logger("test").exception("failed")
    finally:
        structlog.configure(**before)
    written = capfd.readouterr().err
    assert "ValueError: boom" in written
    assert token not in written
