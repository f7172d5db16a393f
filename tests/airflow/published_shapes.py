"""The parts of published formats that alerts use, as JSON Schemas: what PagerDuty, Teams and Slack
accept."""

from __future__ import annotations

from typing import Any

_DETAILS = {"type": "object", "additionalProperties": {"type": "string"}}
_LINKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["href"],
        "properties": {"href": {"type": "string", "pattern": "^https?://"}, "text": {}},
        "additionalProperties": False,
    },
}
_SUMMARY = {"type": "string", "minLength": 1, "maxLength": 1024}
_TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$"}
_ROUTING_KEY = {"type": "string", "pattern": "^[0-9a-zA-Z]{32}$"}

# https://developer.pagerduty.com/docs/events-api-v2/trigger-events/
PAGERDUTY_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["routing_key", "event_action", "dedup_key", "payload"],
    "additionalProperties": False,
    "properties": {
        "routing_key": _ROUTING_KEY,
        "event_action": {"enum": ["trigger", "acknowledge", "resolve"]},
        "dedup_key": {"type": "string", "minLength": 1, "maxLength": 255},
        "client": {"type": "string"},
        "client_url": {"type": "string"},
        "links": _LINKS,
        "payload": {
            "type": "object",
            "required": ["summary", "source", "severity"],
            "additionalProperties": False,
            "properties": {
                "summary": _SUMMARY,
                "source": {"type": "string", "minLength": 1},
                "severity": {"enum": ["critical", "error", "warning", "info"]},
                "timestamp": _TIME,
                "component": {"type": "string"},
                "group": {"type": "string"},
                "class": {"type": "string"},
                "custom_details": _DETAILS,
            },
        },
    },
}
# https://developer.pagerduty.com/docs/events-api-v2/send-change-events/
PAGERDUTY_CHANGE: dict[str, Any] = {
    "type": "object",
    "required": ["routing_key", "payload"],
    "additionalProperties": False,
    "properties": {
        "routing_key": _ROUTING_KEY,
        "links": _LINKS,
        "payload": {
            "type": "object",
            "required": ["summary"],
            "additionalProperties": False,
            "properties": {
                "summary": _SUMMARY,
                "source": {"type": "string"},
                "timestamp": _TIME,
                "custom_details": _DETAILS,
            },
        },
    },
}
# https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/ and
# https://adaptivecards.io/explorer/ (1.4, which Teams shows)
_RUN = {
    "type": "object",
    "required": ["type", "text"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "TextRun"},
        "text": {"type": "string", "minLength": 1},
        "color": {"enum": ["Default", "Accent", "Good", "Warning", "Attention"]},
        "weight": {"enum": ["Default", "Lighter", "Bolder"]},
        "size": {"enum": ["Default", "Small", "Medium", "Large", "ExtraLarge"]},
        "fontType": {"enum": ["Default", "Monospace"]},
    },
}
_BLOCK = {
    "type": "object",
    "required": ["type", "inlines"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "RichTextBlock"},
        "inlines": {"type": "array", "minItems": 1, "items": _RUN},
        "spacing": {"enum": ["Default", "None", "Small", "Medium", "Large"]},
    },
}
_CARD = {
    "type": "object",
    "required": ["type", "version", "body"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "http://adaptivecards.io/schemas/adaptive-card.json"},
        "type": {"const": "AdaptiveCard"},
        "version": {"enum": ["1.2", "1.3", "1.4"]},
        "msteams": {"const": {"width": "Full"}},
        "body": {"type": "array", "minItems": 1, "items": _BLOCK},
        "actions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "url"],
                "additionalProperties": False,
                "properties": {
                    "type": {"const": "Action.OpenUrl"},
                    "title": {"type": "string"},
                    "url": {"type": "string", "pattern": "^https?://"},
                },
            },
        },
    },
}
TEAMS: dict[str, Any] = {
    "type": "object",
    "required": ["type", "attachments"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "message"},
        "attachments": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["contentType", "content"],
                "additionalProperties": False,
                "properties": {
                    "contentType": {"const": "application/vnd.microsoft.card.adaptive"},
                    "contentUrl": {"type": "null"},
                    "content": _CARD,
                },
            },
        },
    },
}
TEAMS_BYTES = 28_000
# https://docs.slack.dev/reference/block-kit/blocks/section-block
_MARKDOWN = {
    "type": "object",
    "required": ["type", "text"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "mrkdwn"},
        "text": {"type": "string", "minLength": 1, "maxLength": 3000},
        "verbatim": {"const": True},
    },
}
_FIELD = {
    **_MARKDOWN,
    "properties": {**_MARKDOWN["properties"], "text": {"type": "string", "maxLength": 2000}},  # type: ignore[dict-item]
}
SLACK: dict[str, Any] = {
    "type": "object",
    "required": ["text", "blocks"],
    "properties": {
        "text": {"type": "string", "maxLength": 40_000},
        "blocks": {
            "type": "array",
            "maxItems": 50,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "type": {"const": "section"},
                    "text": _MARKDOWN,
                    "fields": {"type": "array", "minItems": 1, "maxItems": 10, "items": _FIELD},
                },
            },
        },
    },
}
# docs/alerts.md#any-webhook
WEBHOOK: dict[str, Any] = {
    "type": "object",
    "required": ["version", "event", "state", "title", "source", "at", "facts", "sections"],
    "additionalProperties": False,
    "properties": {
        "version": {"const": 1},
        "event": {
            "enum": [
                "failure",
                "recovery",
                "late",
                "check",
                "differs",
                "drift",
                "broken_spec",
                "digest",
            ]
        },
        "state": {"enum": ["open", "resolved", "note"]},
        "title": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "at": _TIME,
        "incident": {"type": ["string", "null"]},
        "facts": _DETAILS,
        "sections": _DETAILS,
        "link": {"type": ["string", "null"]},
    },
}
