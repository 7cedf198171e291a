"""The endpoints as OpenAPI 3.1, for whoever writes a client or lets a machine try them. Pure.

Kept by hand, one line each, and tested to name every route there is with what it reads. ``!`` marks what a body must
have; what each thing means is in docs/reference/registry-api.md.
"""

from __future__ import annotations

import re
from typing import Any

PREFIX = "/api/windtunnel/v1"

#: (method, route as Flask has it, what it does, query parameters, body).
ENDPOINTS: tuple[tuple[str, str, str, str, str], ...] = (
    ("get", "/health", "Is it up, which version, and who asks", "", ""),
    ("get", "/openapi.json", "This description", "", ""),
    ("get", "/metrics", "How the registry is, as text for Prometheus", "", ""),
    ("get", "/models", "Every model at a glance", "", ""),
    ("post", "/models/<model>/versions", "Register and seal a version", "",
     "source! run_id key model_id recipe:object semver parent cause correlation_id"),
    ("get", "/models/<model>/versions", "Versions, newest first", "", ""),
    ("get", "/models/<model>/versions/<int:number>", "One version", "", ""),
    ("get", "/models/<model>/versions/<int:number>/explain", "What it has and lacks to go there", "to", ""),
    ("post", "/models/<model>/versions/<int:number>/withdraw", "Take it out of use", "", "reason!"),
    ("post", "/models/<model>/versions/<int:number>/transition", "Bring it somewhere by hand", "",
     "to! reason! expected_champion"),
    ("get", "/models/<model>/versions/<int:number>/approvals", "Approvals and rejections", "", ""),
    ("post", "/models/<model>/versions/<int:number>/approvals", "Approve or reject", "",
     "decision! reason! to digest evidence answer:object"),
    ("post", "/models/<model>/versions/<int:number>/approvals/withdraw", "Take back what was said", "",
     "reason! to by"),
    ("get", "/models/<model>/versions/<which>/lineage", "What it was made of, and what came of it",
     "direction depth:integer as_of limit:integer", ""),
    ("get", "/lineage/impact", "Versions and champions made of some data", "of! as_of limit:integer", ""),
    ("get", "/models/<model>/champion", "Who is champion, or was", "at", ""),
    ("get", "/models/<model>/champion/history", "Who was champion when, and why", "", ""),
    ("get", "/models/<model>/pending", "The version a release should take up", "", ""),
    ("post", "/models/<model>/rollback", "Emergency: a former champion is champion again", "", "reason! to:integer"),
    ("get", "/reviews", "Reviews of emergencies", "closed limit:integer", ""),
    ("post", "/reviews/<identifier>/close", "Close somebody else's", "", "note!"),
    ("post", "/verdicts", "Send a verdict", "",
     "model! kind! outcome! reason! subject! version numbers:object thresholds:object window:array inputs:array "
     "report_uri dag_id dag_run_id task_id correlation_id"),
    ("get", "/models/<model>/verdicts", "Verdicts, newest first", "subject kind version limit:integer", ""),
    ("get", "/models/<model>/policy", "The evidence it needs, in short", "", ""),
    ("put", "/models/<model>/policy", "Pass on a description's policy", "", "champion:array first:array"),
    ("get", "/policy", "The policy of the house", "", ""),
    ("put", "/policy", "Set it", "", "policy:object! reason!"),
    ("get", "/policy/history", "Every version of it", "limit:integer", ""),
    ("post", "/policy/check", "Is this a policy?", "", "policy:object!"),
    ("get", "/models/<model>/policy/document", "The policy of a model", "", ""),
    ("put", "/models/<model>/policy/document", "Set it", "", "policy:object! reason!"),
    ("get", "/models/<model>/policy/history", "Every version of it", "limit:integer", ""),
    ("post", "/models/<model>/policy/check", "May this model have it?", "", "policy:object!"),
    ("get", "/people", "Users and their roles", "", ""),
    ("post", "/people", "Add a user", "", "name! password!"),
    ("put", "/people/<name>/roles", "Give a user exactly these roles", "", "roles:array!"),
    ("get", "/search", "Versions found by the search language", "query order_by limit:integer cursor", ""),
    ("get", "/models/<model>/compare", "What differs between two versions", "left:integer! right:integer!", ""),
    ("get", "/models/<model>/card", "The model's card", "", ""),
    ("put", "/models/<model>/card", "Set it", "", "card:object! reason!"),
    ("get", "/models/<model>/card/history", "Every card that was set", "limit:integer", ""),
    ("get", "/models/<model>/versions/<int:number>/card", "The version's card", "", ""),
    ("put", "/models/<model>/versions/<int:number>/card", "Set it", "", "card:object! reason!"),
    ("get", "/models/<model>/versions/<int:number>/card/history", "Every card that was set", "limit:integer", ""),
    ("get", "/models/<model>/versions/<int:number>/comments", "Comments", "limit:integer", ""),
    ("post", "/models/<model>/versions/<int:number>/comments", "Say something", "", "text!"),
    ("post", "/models/<model>/rollouts", "Open, find again or take over a rollout", "",
     "version:integer! holder! plan:object correlation_id"),
    ("get", "/models/<model>/rollouts", "Rollouts, newest first", "limit:integer", ""),
    ("get", "/rollouts/<identifier>", "One rollout", "", ""),
    ("patch", "/rollouts/<identifier>", "How it stands", "", "token:integer! state step:integer weight:number reason"),
    ("post", "/rollouts/<identifier>/promote", "Make its version champion", "",
     "token:integer! expected_champion version:integer"),
    ("post", "/rollouts/<identifier>/orders", "A person's order", "",
     "kind! reason! step:integer key on_behalf_of done_at:number answer:object"),
    ("get", "/rollouts/<identifier>/orders", "Its orders", "", ""),
    ("get", "/orders", "Orders of all open rollouts, and freezes", "since:integer", ""),
    ("get", "/freezes", "Freezes that stand", "lifted limit:integer", ""),
    ("post", "/freezes", "Set one", "", "scope! reason! target on_behalf_of"),
    ("post", "/freezes/<identifier>/thaw", "Lift it", "", "reason!"),
    ("get", "/events", "Changes in order", "after kind model limit:integer", ""),
    ("get", "/audit", "Changes and refusals, newest first",
     "model actor action outcome correlation_id since until limit:integer", ""),
    ("get", "/audit/log", "Every entry as it is hashed", "after:integer until:integer limit:integer", ""),
    ("get", "/audit/checkpoint", "The newest signed checkpoint", "", ""),
    ("post", "/audit/checkpoint", "Publish one now", "", ""),
    ("get", "/adoption", "Versions that plain MLflow registered", "", ""),
    ("post", "/models/<model>/adopt", "Take them over", "",
     "dry_run:boolean formats:object again:boolean after:integer"),
    ("get", "/agreement", "Where MLflow's tables say otherwise than the history", "model", ""),
    ("post", "/models/<model>/mend", "Set right what does not agree", "", "reason!"),
    ("get", "/deleted", "Deleted versions that can come back", "model", ""),
    ("post", "/models/<model>/versions/<int:number>/restore", "Bring back a version", "", "reason!"),
    ("post", "/models/<model>/restore", "Bring back a model", "", "reason!"),
    ("post", "/purge", "Remove files of versions deleted long ago", "", "dry_run:boolean"),
    ("post", "/collect", "Remove folders that nobody needs", "", "dry_run:boolean"),
    ("get", "/installations", "Other installations that are trusted", "", ""),
    ("post", "/installations", "Trust one", "", "name! key!"),
    ("post", "/installations/<name>/distrust", "Trust it no longer", "", "reason!"),
    ("get", "/exports/models", "What can be exported", "", ""),
    ("get", "/exports/house", "The signed record of what belongs to no model", "", ""),
    ("get", "/exports/models/<model>", "The signed record of a model", "", ""),
    ("get", "/exports/models/<model>/versions/<int:number>", "The signed record of a version", "", ""),
    ("post", "/exports/audits", "Signed statements about the audits", "", ""),
    ("get", "/exports/audits/<name>", "A piece of another installation's audit", "offset:integer", ""),
    ("post", "/exports/seal", "Sign what is in an export", "", "index:object!"),
    ("post", "/imports/check", "Whose export this is", "", "signature:object!"),
    ("post", "/imports/plan", "What a record would do", "", "record:object! signature:object!"),
    ("post", "/imports/records", "Restore a model", "", "record:object! signature:object!"),
    ("post", "/imports/versions/plan", "What a version would do", "", "record:object! signature:object!"),
    ("post", "/imports/versions", "Take one as a new version", "", "record:object! signature:object!"),
    ("post", "/imports/audits", "Keep a piece of another's audit", "",
     "statement:object! offset:integer! text! last:boolean! model"),
)  # fmt: skip

_PLACE = re.compile(r"<(?:(\w+):)?(\w+)>")
_JSON = {"application/json": {"schema": {"type": "object"}}}
#: Where the answer is something else.
_ANSWERS = {"/metrics": {"text/plain": {"schema": {"type": "string"}}}}
_REFUSED = {
    "400": "the request itself is not understood",
    "401": "unknown user, password or token",
    "403": "refused; `missing` says what it needs",
    "404": "no such thing",
    "405": "a name in the path leads elsewhere",
    "409": "another change is in the way",
}


def document(version: str) -> dict[str, Any]:
    """The description, as a dict for JSON.

    Args:
        version: Windtunnel's.
    """
    paths: dict[str, dict[str, Any]] = {}
    for method, route, summary, query, body in ENDPOINTS:
        paths.setdefault(_PLACE.sub(r"{\2}", route), {})[method] = _operation(method, route, summary, query, body)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Windtunnel: the governed registry", "version": version},
        "servers": [{"url": PREFIX}],
        "security": [{"basic": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
            "schemas": {
                "Refusal": {
                    "type": "object",
                    "required": ["error_code", "message", "missing", "hint"],
                    "properties": {
                        "error_code": {"type": "string"},
                        "message": {"type": "string"},
                        "missing": {"type": "array", "items": {"type": "string"}},
                        "hint": {"type": ["string", "null"]},
                    },
                }
            },
        },
    }


def _operation(method: str, route: str, summary: str, query: str, body: str) -> dict[str, Any]:
    words = [word for word in re.split(r"\W+", _PLACE.sub(r"\2", route)) if word]
    made: dict[str, Any] = {
        "operationId": "_".join((method, *words)),
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "integer" if kind == "int" else "string"}}
            for kind, name in _PLACE.findall(route)
        ]
        + [
            {"name": name, "in": "query", "required": needed, "schema": {"type": kind}}
            for name, kind, needed in _fields(query)
        ],
        "responses": {
            "2XX": {"description": "done", "content": _ANSWERS.get(route, _JSON)},
            **{
                status: {
                    "description": said,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
                }
                for status, said in _REFUSED.items()
            },
        },
    }
    if body:
        fields = _fields(body)
        schema = {
            "type": "object",
            "required": [name for name, _, needed in fields if needed],
            # What need not be there may be null as well.
            "properties": {name: {"type": kind if needed else [kind, "null"]} for name, kind, needed in fields},
        }
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return made


def _fields(text: str) -> list[tuple[str, str, bool]]:
    """``"source! limit:integer"`` as (name, JSON type, needed)."""
    found = []
    for word in text.split():
        name, _, kind = word.rstrip("!").partition(":")
        found.append((name, kind or "string", word.endswith("!")))
    return found
