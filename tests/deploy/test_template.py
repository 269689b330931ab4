"""template.yaml as SAM expands it: what would deploy without a word and not stream, or answer 403, is found here."""

import json
import os
import re
import subprocess
from typing import Any

import pytest
from django.conf import settings

from gateway.metrics.emf import SERVICE
from gateway.metrics.families import BY_NAME
from proxysite.env import BASE_DIR
from tests.machine import sam_python

EXPAND = """
import json, sys
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse
template = yaml_parse(open(sys.argv[1]).read())
template["Resources"]["Gateway"]["Properties"]["ImageUri"] = "1.dkr.ecr.eu-west-1.amazonaws.com/gateway:1"
loader = type("Loader", (), {"load": lambda self: {}})()
print(json.dumps(transform(template, {}, loader)))
"""
ENVIRONMENT = {"AWS_DEFAULT_REGION": "eu-west-1", "SAM_CLI_TELEMETRY": "0", "PATH": os.environ["PATH"]}

pytestmark = [pytest.mark.slow, pytest.mark.sam]


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    python = sam_python()
    assert python is not None
    done = subprocess.run(
        [python, "-W", "ignore", "-c", EXPAND, "template.yaml"],
        cwd=BASE_DIR,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    value: dict[str, Any] = json.loads(done.stdout)["Resources"]
    return value


def of_kind(resources: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [resource["Properties"] for resource in resources.values() if resource["Type"] == kind]


def test_the_function_url_streams_and_is_open_to_everyone(resources: dict[str, Any]) -> None:
    live = {"Ref": "GatewayAliaslive"}
    (url,) = of_kind(resources, "AWS::Lambda::Url")
    assert url == {"TargetFunctionArn": live, "AuthType": "NONE", "InvokeMode": "RESPONSE_STREAM"}
    public = [grant for grant in of_kind(resources, "AWS::Lambda::Permission") if grant["Principal"] == "*"]
    # Since October 2025 it takes both.
    assert {grant["Action"]: grant for grant in public} == {
        "lambda:InvokeFunctionUrl": {
            "Action": "lambda:InvokeFunctionUrl",
            "FunctionName": live,
            "Principal": "*",
            "FunctionUrlAuthType": "NONE",
        },
        "lambda:InvokeFunction": {
            "Action": "lambda:InvokeFunction",
            "FunctionName": live,
            "Principal": "*",
            "InvokedViaFunctionUrl": True,
        },
    }


def test_the_rest_api_streams_where_it_is_asked_for(resources: dict[str, Any]) -> None:
    assert resources["Api"]["Condition"] == resources["ApiPermission"]["Condition"] == "IsRestApi"
    method = resources["Api"]["Properties"]["Body"]["paths"]["/{proxy+}"]["x-amazon-apigateway-any-method"]
    integration = method["x-amazon-apigateway-integration"]
    assert integration["responseTransferMode"] == "STREAM"
    uri, names = integration["uri"]["Fn::Sub"]
    assert uri.endswith("lambda:path/2021-11-15/functions/${Live}/response-streaming-invocations")
    assert names == {"Live": {"Ref": "GatewayAliaslive"}}


def test_the_function_holds_names_of_secrets_and_no_secret(resources: dict[str, Any]) -> None:
    function = resources["Gateway"]["Properties"]
    assert function["PackageType"] == "Image"
    variables = function["Environment"]["Variables"]
    assert variables["GATEWAY_INVOKE_MODE"] == "response_stream"
    secret = [name for name in variables if re.search("KEY|PEPPERS|DATABASE_URL|REDIS_URL", name)]
    assert len(secret) == 7
    for name in secret:
        assert variables[name]["Fn::If"][1]["Fn::Sub"].startswith("ssm:${"), name


def test_logs_are_kept_for_a_time_and_the_upkeep_runs_daily(resources: dict[str, Any]) -> None:
    (group,) = of_kind(resources, "AWS::Logs::LogGroup")
    assert group["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    (rule,) = of_kind(resources, "AWS::Events::Rule")
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(1 day)", "ENABLED")


def test_there_is_an_alarm_for_what_the_gateway_itself_counts_as_spent(resources: dict[str, Any]) -> None:
    assert len(of_kind(resources, "AWS::CloudWatch::Alarm")) == 6
    spend = resources["SpendAlarm"]["Properties"]
    assert spend["MetricName"] in BY_NAME
    assert (spend["Namespace"], spend["Dimensions"]) == (
        settings.GATEWAY_EMF_NAMESPACE,
        [{"Name": SERVICE, "Value": {"Ref": "Gateway"}}],
    )


def test_the_dashboard_draws_what_the_function_tells(resources: dict[str, Any]) -> None:
    (dashboard,) = of_kind(resources, "AWS::CloudWatch::Dashboard")
    body = dashboard["DashboardBody"]["Fn::Sub"]
    assert len(json.loads(body)["widgets"]) == 6
    drawn = set(re.findall(r'"(gateway_\w+)"', body))
    assert len(drawn) == 4
    assert drawn <= set(BY_NAME)
    filters = {name: value for name, value in resources.items() if value["Type"] == "AWS::Logs::MetricFilter"}
    assert set(filters) == {"ServerErrors", "TokensIn", "TokensOut"}


def test_sam_finds_no_fault_in_the_template() -> None:
    done = subprocess.run(
        ["sam", "validate", "--lint"],
        cwd=BASE_DIR,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a valid SAM Template" in done.stdout
