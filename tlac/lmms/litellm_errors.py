"""Turn what providers say instead of an answer, and what litellm raises, into tlac's errors: one line, no secret.

What an error means is decided on status, code and details of the whole body, the same for both roads to a provider.
litellm's class for it (ContextWindowExceededError, ContentPolicyViolationError) is one of these facts: litellm knows
the words of many providers. Words are searched only where a provider sends nothing else, and never after they are cut
for display.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

from tlac.config.schemas import Backend
from tlac.errors import CallError, ConfigError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.lmms.middleware.rate_limit import duration_s
from tlac.runtime.redaction import redact
from tlac.types import LMMResponse, Outcome

_MAX_MESSAGE_CHARS = 240
# 499: Google's for a call that its own side has cancelled
_PASSING = (408, 409, 425, 499)


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_REFUSAL_CODES = (
    *("content_filter", "content_filter_error", "content_policy_violation", "responsibleaipolicyviolation", "safety"),
    *("moderation_blocked", "data_inspection_failed", "datainspectionfailed", "refusal", "prohibited_content"),
)
_REFUSAL_WORDS = _any(
    r"content[ _](?:filter|policy)|safety system|flagged (?:as|by|for)",
    r"blocked by (?:the |our )?(?:safety|moderation|content)|violat\w+ (?:our|the) (?:usage|content) polic",
)
_CREDIT_CODES = (
    *("insufficient_quota", "billing_error", "billing_hard_limit_reached", "billing_not_active", "arrearage"),
    *("exceeded_current_quota_error", "insufficient_balance", "insufficient_credits", "payment_required"),
)
_CREDIT_WORDS = _any(
    r"exceeded your current quota|credit balance|insufficient (?:balance|credits?|funds|quota)|spending limit",
    r"used all available credits|billing (?:hard limit|is not active|details)|reached your specified api usage limit",
)
_RATE_CODES = ("rate_limit_exceeded", "rate_limit_error", "too_many_requests", "throttlingexception", "throttling")
_SIZE_WORDS = _any(r"too large", r"exceed", r"maximum", r"\bMB\b")
_PARAM_CODES = (
    *("unsupported_parameter", "unknown_parameter", "unsupported_value", "invalid_parameter", "extra_forbidden"),
    "invalid_request_error",
)
# Gemini's words, then those of pydantic as Anthropic, vLLM and others pass them on, then OpenAI's
_PARAM_WORDS = (
    _any(r"unknown name [\"'](\w+)"),
    _any(r"^[\"']?(?:body\.)?(\w+)[\"']?: (?:extra inputs|input should|field required|range)"),
    _any(
        r"(?:unsupported|unrecognized|unknown)(?: request)? (?:param|arg|field)\w*(?: supplied)?"
        r"(?::? \[?[\"'`]|: )(\w+)"
    ),
    _any(r"[\"'`](\w+)[\"'`] (?:is not supported|does not support|is deprecated)"),
)
_PARAM_OF_LITELLM = _any(r"parameters: \[(.*?)\]|doesn't support (\w+)=|(\w+) is not supported")
_PARTS_OF_A_SAMPLE = ("messages", "contents", "input", "system")
# OpenAI: "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 34567"
_ALONE_OVER_LIMIT = _any(r"limit:? (\d[\d,]*),(?: used:? \d[\d,]*,)? requested:? (\d[\d,]*)")
# OpenRouter: "Rate limit exceeded: free-models-per-day"
_DAY_WORDS = _any(r"(?:per|a)[ -]day|\bdaily\b")
_RETRY_WORDS = _any(r"(?:retry|try again) (?:in|after) ((?:\d+(?:\.\d+)? ?(?:ms|seconds?|minutes?|hours?|[smhd]))+)")
# litellm raises these of libraries' errors before it calls anybody
_NO_CONNECTION = _any(r"connect|timeout|transport|network|dns|proxy")
_CREDENTIAL_MODULES = ("google.auth", "botocore", "boto3", "azure.identity", "azure.core")

# litellm's own advice, and the trace that it appends
_NOT_FOR_USERS = re.compile(r"To drop (?:these|unsupported)|Traceback \(most recent|File an issue|Pass model as E\.G")
_HTML_TITLE = re.compile(r"\s*<(?:!doctype|html)\b.*?<title[^>]*>(.*?)</title>", re.DOTALL | re.IGNORECASE)
_CLASS_NAMES = re.compile(r"^(?:(?:litellm\.)?\w+(?:Error|Exception)(?:: ?| - ))+")


def parse_json(text: str | bytes) -> Any:
    """What a text holds as JSON; None where it holds none, or is nested too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class ErrorFacts:
    """What is known of a call that gave no answer.

    `kind` is the name of litellm's class for it, `text` the whole body, or the words of an exception where there is no
    body. `status` is None where no HTTP response came.
    """

    status: int | None
    kind: str
    headers: Mapping[str, str]
    text: str

    @cached_property
    def error(self) -> Mapping[str, Any]:
        """The error object of the body, in whatever place the provider puts it; empty where the body is no JSON."""
        document = parse_json(self.text)
        while isinstance(document, list) and document:
            document = document[0]
        if not isinstance(document, dict):
            return {}
        inner = document.get("error")
        if isinstance(inner, dict):
            return _unwrapped(inner)
        return {**document, "message": inner} if isinstance(inner, str) else document

    @property
    def words(self) -> str:
        """The provider's own words, whole."""
        found = next(
            (self.error[name] for name in ("message", "Message", "detail", "msg") if self.error.get(name)), None
        )
        if isinstance(found, list):
            # FastAPI's list of what is wrong with a request
            found = "; ".join(_validation_words(item) for item in found)
        return str(found) if found else self.text

    @cached_property
    def codes(self) -> frozenset[str]:
        """Every code that the body names, in lower case: of the error, of what caused it, of its details."""
        inner = self.error.get("innererror") or self.error.get("inner_error")
        owners = [self.error, *self.details, *([inner] if isinstance(inner, dict) else [])]
        names = ("code", "type", "status", "reason", "__type")
        return frozenset(str(owner[name]).lower() for owner in owners for name in names if owner.get(name))

    def has_code(self, codes: Iterable[str]) -> bool:
        """Whether the body names one of these codes."""
        return not self.codes.isdisjoint(codes)

    @property
    def details(self) -> list[Mapping[str, Any]]:
        """Google's structured details."""
        found = self.error.get("details")
        return [detail for detail in found if isinstance(detail, dict)] if isinstance(found, list) else []

    def detail(self, name: str) -> list[Mapping[str, Any]]:
        """The objects in a list of that name in the details: "violations", "fieldViolations"."""
        lists = [detail.get(name) for detail in self.details]
        return [item for found in lists if isinstance(found, list) for item in found if isinstance(item, dict)]


def _unwrapped(error: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stands in an error of OpenRouter's, which hands on a provider's as text."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    document = parse_json(raw) if isinstance(raw, str) else None
    if isinstance(raw, str) and document is None:
        return {**error, "message": f"{error.get('message')}: {raw}"}
    inner = document.get("error") if isinstance(document, dict) else None
    return {**error, **inner} if isinstance(inner, dict) else error


def _validation_words(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    place = ".".join(str(step) for step in item.get("loc") or () if step != "body")
    return f"{place}: {item.get('msg')}" if place else str(item.get("msg"))


def facts_of(error: BaseException) -> ErrorFacts:
    """The facts in an exception: the HTTP response that it or one of its causes holds, else its own words."""
    status = getattr(error, "status_code", None)
    kind, headers, text = type(error).__name__, _headers(error), str(error)
    for cause in _causes(error):
        response: Any = getattr(cause, "response", None)
        try:
            content = response.text if response is not None else ""
            # the one answer whose body says nothing
            is_redirect = response is not None and 300 <= response.status_code < 400
        except Exception:  # noqa: BLE001, S112 - a body that was never read, or a stand-in for a response
            continue
        if isinstance(content, str) and (content.strip() or is_redirect):
            status, text = response.status_code, content
            headers = {**headers, **_headers(cause)}
    return ErrorFacts(status if isinstance(status, int) else None, kind, headers, text)


def _causes(error: BaseException) -> Iterator[BaseException]:
    known: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in known:
        known.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _headers(error: BaseException) -> dict[str, str]:
    found = getattr(error, "litellm_response_headers", None) or getattr(
        getattr(error, "response", None), "headers", None
    )
    return {str(name).lower(): str(value) for name, value in dict(found or {}).items()}


def refusal_of(facts: ErrorFacts) -> LMMResponse | None:
    """The refusal that an error is: the provider would not answer because of what the image or the text shows."""
    if facts.status is not None and facts.status >= 500:
        return None
    is_refusal = (
        facts.kind == "ContentPolicyViolationError"
        or facts.has_code(_REFUSAL_CODES)
        or (facts.status in (400, 403, 422) and _REFUSAL_WORDS.search(facts.words))
    )
    return LMMResponse(Outcome.REFUSED, "", _shown(facts.words)) if is_refusal else None


def facts_inside(content: bytes) -> ErrorFacts | None:
    """The facts of an error that a provider sends as if it were an answer; None where the content holds none.

    Its status is that which it would have had, where the error holds it.
    """
    facts = ErrorFacts(200, "", {}, content.decode("utf-8", "replace"))
    if "error" not in facts.text or not facts.error or facts.words == facts.text:
        return None
    code = str(facts.error.get("code"))
    return replace(facts, status=int(code)) if re.fullmatch("[45][0-9][0-9]", code) else facts


def unreadable(error: Exception, content: bytes, backend: Backend) -> CallError | ConfigError:
    """Return our error for a provider's answer that can't be read, for the reason `error`."""
    facts = facts_inside(content)
    if facts is not None:
        return translate(facts, backend)
    if parse_json(content) is None:
        # the page of a proxy or a login, or an answer in pieces that nobody asked for
        text = content.decode("utf-8", "replace")
        return TransientError(f"{backend.name}: the provider failed (HTTP 200, but no JSON: {_shown(text)})")
    return TransientError(f"{backend.name}: the provider failed (HTTP 200: {provider_message(error)})")


def translate(error: Exception | ErrorFacts, backend: Backend) -> CallError | ConfigError:
    """Return our error that says what a provider's error means for the run."""
    facts = error if isinstance(error, ErrorFacts) else facts_of(error)
    if facts.kind == "UnsupportedParamsError":
        message = _shown(facts.words)
        name = _litellm_param(facts.words)
        return ConfigError(f"{backend.source}: {name}: {message}; change or remove it under params")
    where = ": ".join(filter(None, (f"HTTP {facts.status or 'unknown'}", _shown(facts.words))))
    is_limited = facts.status == 429 or facts.has_code(_RATE_CODES)
    if is_limited or (facts.status is None and facts.kind == "RateLimitError"):
        meaning = _limited(facts, backend, where)
    else:
        meaning = _lasting(facts, backend, where) or _passing(facts, backend, where)
    meaning.kind = meaning.kind or (f"HTTP {facts.status}" if facts.status else "no connection")
    meaning.words = facts.words
    return meaning


def unasked_error(error: Exception, backend: Backend) -> CallError | ConfigError | None:  # noqa: PLR0911
    """Return our error for one that litellm raised before it sent anything; None where a connection failed.

    An unknown provider, credentials that aren't there, a missing package, a message that it can't put in the provider's
    form: all of it is the same for every sample.
    """
    if "LLM Provider NOT provided" in str(error):
        return ConfigError(
            f"{backend.source}: model {backend.spec.model!r} names no provider that litellm knows: "
            "write it as PROVIDER/MODEL, such as openai/gpt-4o"
        )
    if type(error).__name__ == "UnsupportedParamsError":
        return None
    causes = [cause for cause in _causes(error) if not type(cause).__module__.startswith("litellm")]
    if any(getattr(cause, "response", None) is not None for cause in causes):
        return None
    if causes and (isinstance(causes[0], OSError) or _NO_CONNECTION.search(type(causes[0]).__name__)):
        return None
    for cause in causes:
        if isinstance(cause, ImportError):
            return ConfigError(f"{backend.name}: {backend.spec.model} needs a package: {_shown(str(cause))}")
        if type(cause).__module__.startswith(_CREDENTIAL_MODULES):
            return PermanentError(f"{backend.name}: no credentials that can be used: {_shown(str(cause))}")
    return PermanentError(
        f"{backend.name}: nothing could be sent to {backend.spec.model}: {provider_message(error)}; check its "
        f"credentials, and whether litellm can show it images, in {backend.source}"
    )


def _limited(facts: ErrorFacts, backend: Backend, where: str) -> CallError:
    violations = facts.detail("violations")
    for violation in violations:
        quota = str(violation.get("quotaId") or "")
        if str(violation.get("quotaValue")) == "0":
            return PermanentError(
                f"{backend.name}: the account may not use this model: its quota {quota} is 0 ({where})"
            )
        if "PerDay" in quota:
            return PermanentError(
                f"{backend.name}: the quota of the day is used up ({quota}); it resets at midnight Pacific time, and "
                f"the same command goes on then ({where})"
            )
    wait_s = retry_after_s(facts)
    if facts.has_code(_CREDIT_CODES) or (not violations and wait_s is None and _CREDIT_WORDS.search(facts.words)):
        return PermanentError(f"{backend.name}: the account's quota or credit is used up ({where})")
    if wait_s is None and not violations and _DAY_WORDS.search(facts.words):
        return PermanentError(
            f"{backend.name}: the quota of the day is used up; the same command goes on when it resets ({where})"
        )
    alone = _ALONE_OVER_LIMIT.search(facts.words)
    if alone and int(alone[2].replace(",", "")) > int(alone[1].replace(",", "")):
        return SampleError(
            f"{backend.name}: this request alone is over the account's limit; lower image.max_side_px or max_tokens in "
            f"{backend.source} ({where})"
        )
    return RateLimitError(f"{backend.name}: asked too fast ({where})", wait_s)


@dataclass(frozen=True, slots=True)
class _Rule:
    """One kind of fault that asking again won't mend, and what our error says before the provider's own words.

    It is known by its status, its code or litellm's class, or by words under a status from `least` to `most`.
    """

    error: type[CallError]
    text: str
    statuses: Container[int] = ()
    codes: tuple[str, ...] = ()
    words: re.Pattern[str] | None = None
    least: int = 400
    most: int = 499
    kind: str = ""

    def applies(self, facts: ErrorFacts) -> bool:
        """Whether the facts are of this kind."""
        status = facts.status or 0
        if status in self.statuses or facts.has_code(self.codes) or (self.kind and facts.kind == self.kind):
            return True
        return self.least <= status <= self.most and self.words is not None and bool(self.words.search(facts.words))


# the first that applies; {key}, {model} and {source} are the backend's
_RULES = (
    _Rule(
        PermanentError,
        "its address sends calls on to another, which would be told the key; check api_base in {source}",
        statuses=range(300, 400),
    ),
    _Rule(
        PermanentError,
        "the key was refused; check {key}",
        statuses=(401,),
        codes=(
            *("api_key_invalid", "api_key_expired", "invalid_api_key", "incorrect_api_key", "authentication_error"),
            *("unauthenticated", "unrecognizedclientexception", "expiredtokenexception"),
        ),
        words=_any(r"api[ _-]?key (?:is )?(?:not valid|invalid|expired)|(?:invalid|incorrect) (?:x-)?api[ _-]?key"),
    ),
    _Rule(
        PermanentError,
        "the account's quota or credit is used up",
        statuses=(402,),
        codes=_CREDIT_CODES,
        words=_CREDIT_WORDS,
    ),
    _Rule(
        PermanentError,
        "{model} takes no images: name a model that does, or start its server with the part that sees "
        "(llama.cpp: --mmproj)",
        # llama.cpp, vLLM, Ollama, OpenRouter and Groq say so in words alone, some of them as a fault of the server
        words=_any(
            r"image inputs? (?:is|are) not supported|mmproj|not a (?:vision|multi-?modal)|at most 0 image",
            r"endpoints found that support image|(?:not|n't) support (?:image|vision|multi-?modal)",
            r"images? (?:are|is) not supported|content must be a string|missing data required for image input",
        ),
        most=599,
    ),
    _Rule(
        SampleError,
        "the request is too large; lower image.max_side_px, or show stage 2 fewer classes (tlac-shortlist)",
        statuses=(413,),
        codes=("context_length_exceeded", "exceed_context_size_error", "request_too_large", "string_above_max_length"),
        words=_any(
            r"request_too_large|payload size exceeds|request entity too large|prompt is too long|input token count",
            r"context (?:length|window|size)|maximum (?:context|number of tokens)",
            # vLLM, xAI, SGLang, Bedrock, Cohere, TGI
            r"maximum (?:model|prompt|allowed) length|max_model_len|input is too long|too many tokens",
            r"max_new_tokens.{0,9} must be <=",
        ),
        kind="ContextWindowExceededError",
    ),
    _Rule(PermanentError, "not allowed; check {key} and what it may use", statuses=(403,)),
    _Rule(
        PermanentError,
        "model {model!r} or its address was not found; see {source}",
        statuses=(404, 405),
        codes=("model_not_found",),
    ),
    _Rule(
        PermanentError,
        "the server can't do this, now or later",
        statuses=(501,),
        # a server's fault by its status, that will be there at the next try as well
        words=_any(
            r"not (?:supported|implemented)|unsupported|does(?:n't| not) support|requires more (?:system )?memory",
            r"unknown (?:model|name|parameter|field|argument)|invalid (?:request|argument|parameter|api key)",
        ),
        least=500,
        most=599,
    ),
)
_IMAGE_WORDS = _any(
    r"(?:could not|unable to|failed to|cannot|can't) (?:process|parse|decode|read|load)[^.]{0,30}image",
    r"(?:invalid|unsupported|corrupt(?:ed)?|too large|exceeds)[^.]{0,40}image",
    r"image[^.]{0,40}(?:invalid|not valid|unsupported|corrupt|too large|too small|exceeds|maximum)",
)


def _lasting(facts: ErrorFacts, backend: Backend, where: str) -> CallError | None:
    """The error that asking again won't mend, None where it may."""
    spec = backend.spec
    if "overloaded_error" in facts.codes:
        return None
    for rule in _RULES:
        if rule.applies(facts):
            text = rule.text.format(key=spec.api_key_env or "the API key", model=spec.model, source=backend.source)
            return rule.error(f"{backend.name}: {text} ({where})")
    if facts.status is None or not 400 <= facts.status < 500 or facts.status in _PASSING:
        return None
    if _IMAGE_WORDS.search(facts.words) or any("image" in code for code in facts.codes):
        remedy = "; lower image.max_size_bytes or image.max_side_px" if _SIZE_WORDS.search(facts.words) else ""
        return SampleError(f"{backend.name}: the provider can't use this image{remedy} ({where})", kind="image")
    if name := _refused_param(facts):
        remedy = f"change or remove it under params in {backend.source}"
        return PermanentError(f"{backend.name}: parameter {name!r} is refused; {remedy} ({where})")
    # one image's fault or everybody's: AbortOnRepeatedError ends the run when it repeats
    return SampleError(f"{backend.name}: the request was refused; check params in {backend.source} ({where})")


def _refused_param(facts: ErrorFacts) -> str:
    """The parameter that a provider complains of, empty where it complains of something else."""
    named = str(facts.error.get("param") or "")
    fields = [str(violation.get("field") or "") for violation in facts.detail("fieldViolations")]
    if named.startswith(_PARTS_OF_A_SAMPLE) or any(name.startswith(_PARTS_OF_A_SAMPLE) for name in fields):
        return ""
    if named and facts.has_code(_PARAM_CODES):
        return named
    matches = (pattern.search(facts.words) for pattern in _PARAM_WORDS)
    found = next((match[1] for match in matches if match), "")
    return "" if found.startswith(_PARTS_OF_A_SAMPLE) else found


def _passing(facts: ErrorFacts, backend: Backend, where: str) -> TransientError:
    if facts.kind == "Timeout" or facts.status == 408:
        return TransientError(f"{backend.name}: no answer in time ({where})", kind="time-out")
    wait_s = retry_after_s(facts)
    if wait_s is not None:
        return RateLimitError(f"{backend.name}: the provider asks to wait ({where})", wait_s)
    return TransientError(f"{backend.name}: the provider failed ({where})")


def _litellm_param(message: str) -> str:
    match = _PARAM_OF_LITELLM.search(message)
    names = next((group for group in match.groups() if group), "") if match else ""
    return f"parameter {names.replace(chr(39), '')!r} is refused" if names else "a parameter is refused"


def provider_message(error: BaseException) -> str:
    """Return the provider's own words in an exception: one line, shortened, without secrets."""
    return _shown(facts_of(error).words) or type(error).__name__


def _shown(text: str) -> str:
    """Words cut for display; nothing is decided on them."""
    if page := _HTML_TITLE.match(text):
        # of a proxy on the way
        text = page[1]
    text = _NOT_FOR_USERS.split(text)[0]
    text = _CLASS_NAMES.sub("", " ".join(redact(text).split())).strip(" .")
    return text[:_MAX_MESSAGE_CHARS] + ("…" if len(text) > _MAX_MESSAGE_CHARS else "")


def retry_after_s(facts: ErrorFacts) -> float | None:
    """Return how many seconds the provider asks to wait: from headers, Google's RetryInfo, or its words."""
    headers = facts.headers
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    if (value := headers.get("retry-after")) is not None:
        return _number(value) if _number(value) is not None else _seconds_until(value, headers.get("date"))
    for detail in facts.details:
        if (wait_s := duration_s(str(detail.get("retryDelay")))) is not None:
            return wait_s
    said = _RETRY_WORDS.search(facts.words)
    return duration_s(re.sub(r" ?([smh])(?:econds?|inutes?|ours?)", r"\1", said[1].lower())) if said else None


def _number(value: str | None) -> float | None:
    return float(value) if value and re.fullmatch(r"\d+(\.\d+)?", value.strip()) else None


def _seconds_until(moment: str, now: str | None) -> float | None:
    # against the server's own Date: its clock and ours may differ by more than the wait
    try:
        wait = parsedate_to_datetime(moment) - parsedate_to_datetime(now or "")
    except (TypeError, ValueError):
        return None
    return max(0.0, wait.total_seconds())
