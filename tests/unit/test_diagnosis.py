"""What a server's error is taken for: its code, whether a retry can mend it, what may be shown of
it."""

from __future__ import annotations

import errno
import re
import socket
import ssl
import threading
from typing import Any
from xml.etree import ElementTree

import psycopg
import pytest
import urllib3
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import (
    MaxRetryError,
    ProtocolError,
    ReadTimeoutError,
    ResponseError,
    SSLError,
)

from loadsheet.engine.causes import SQLSTATES
from loadsheet.engine.diagnosis import Diagnosis, diagnose
from loadsheet.engine.lake_causes import S3
from loadsheet.lake.failure import LakeFailed

PASSES = """
08000 08001 08003 08004 08006 08P01 25006 25P03 25P04 40000 40001 40003 40P01 53000 53100 53200
53300 55006 55P03 57000
57014 57P01 57P02 57P03 57P05 58000 58030 72000 HV00N XX000
""".split()
STAYS = """
0A000 0B000 21000 22000 22001 22012 22P02 23502 23505 23514 25001 25P02 28000 28P01 2BP01 3D000
3F000 40002 42501 42601 42703
42P01 44000 53400 54000 55000 57P04 58P01 HV000 P0001 XX001 XX002 99999
""".split()


def refused(code: str, status: int) -> S3Error:
    response = urllib3.HTTPResponse(status=status)
    return S3Error(response, code, "no", "/lake", "1", "1", bucket_name="lake")


def as_rclone_says_it(code: str, status: int) -> InvalidResponseError:
    body = f"<?xml?><Error>\n  <Code>{code}</Code>\n  <Message>Sorry,\n no.</Message></Error>"
    return InvalidResponseError(status, "text/xml; charset=utf-8", body)


def given_up(reason: Exception) -> MaxRetryError:
    return MaxRetryError(urllib3.HTTPConnectionPool("lake"), "/lake/x?X-Amz-Signature=abc", reason)


def retried(error: BaseException) -> bool:
    found = diagnose(error)
    assert found
    return found.cause.retryable


@pytest.mark.parametrize("code", PASSES)
def test_a_database_error_that_may_pass_is_retried(code: str) -> None:
    error = psycopg.DatabaseError("x")
    error.sqlstate = code
    assert retried(error)


@pytest.mark.parametrize("code", STAYS)
def test_a_database_error_that_stays_is_not_retried(code: str) -> None:
    error = psycopg.DatabaseError("x")
    error.sqlstate = code
    assert not retried(error)


def test_every_class_is_tried_here_and_tells_the_reason_and_the_next_step() -> None:
    assert all(any(code.startswith(known) for code in PASSES + STAYS) for known in SQLSTATES)
    for cause in [*SQLSTATES.values(), *S3.values()]:
        assert cause.why[0].isupper() and cause.why[-1] != "." and cause.next[-1] != "."


POOLERS = [
    ("transaction blocks not allowed in statement pooling mode", False, "pool_mode=transaction"),
    ("FATAL:  unsupported startup parameter: options", False, "ignore_startup_parameters"),
    ("unsupported startup parameter in options: jit", False, "ignore_startup_parameters"),
    ("FATAL:  SSL required", False, "sslmode"),
    ("query_wait_timeout", True, "raise default_pool_size"),
    ("query_timeout", True, "set query_timeout to 0"),
    ("query timeout", True, "set query_timeout to 0"),
    ("idle transaction timeout", True, "set idle_transaction_timeout to 0"),
    ("idle_transaction_timeout", True, "set idle_transaction_timeout to 0"),
    ("transaction timeout", True, "set transaction_timeout to 0"),
    ("client_idle_timeout", True, "raise client_idle_timeout"),
    ("FATAL:  no more connections allowed (max_client_conn)", True, "raise the limit"),
    ("client connections exceeded (max_db_client_connections)", True, "raise the limit"),
    ("client_login_timeout (server down)", True, "host, port and login in PgBouncer"),
    (
        "server login has been failing, try again later (server_login_retry)",
        True,
        "host, port and login in PgBouncer",
    ),
    (
        "server login has been failing, cached error: password authentication failed for user"
        ' "ada" (server_login_retry)',
        True,
        "host, port and login in PgBouncer",
    ),
    ("server conn crashed?", True, "this server runs"),
    ('database "shop" is disabled', True, "check that it runs"),
    ("server shutting down", True, "check that it runs"),
    ("bouncer config error", True, "correct its configuration"),
]
"""What PgBouncer says, whether it may pass, and words of the next step."""


@pytest.mark.parametrize(("words", "passes", "advice"), POOLERS)
def test_a_pooler_s_message_tells_what_to_change_in_the_pooler(
    words: str, passes: bool, advice: str
) -> None:
    in_session = psycopg.errors.ProtocolViolation(words)
    at_login = psycopg.OperationalError(f"connection failed: {words}")
    for error in (in_session, at_login):
        found = diagnose(error)
        assert found and "PgBouncer" in found.cause.why
        assert (found.cause.retryable, found.cause.is_login) == (passes, False)
        assert advice in found.cause.next


def test_a_published_table_that_takes_no_change_is_not_taken_for_wrong_sql() -> None:
    for words in ('cannot update table "item"', 'cannot delete from table "item"'):
        found = diagnose(psycopg.errors.InvalidColumnReference(words))
        assert found and "REPLICA IDENTITY" in found.cause.next and not found.cause.retryable
    other = "there is no unique or exclusion constraint matching the ON CONFLICT specification"
    found = diagnose(psycopg.errors.InvalidColumnReference(other))
    assert found and "REPLICA IDENTITY" not in found.cause.next


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("terminating connection due to transaction timeout", "25P04"),
        ("the database system is shutting down", "57P03"),
        ("canceling statement due to statement timeout", "57014"),
        ("syntax error at or near query_timeout", "42601"),
    ],
)
def test_the_same_words_of_postgresql_are_not_taken_for_a_pooler_s(words: str, code: str) -> None:
    error = psycopg.DatabaseError(words)
    error.sqlstate = code
    found = diagnose(error)
    assert found and "PgBouncer" not in found.cause.why


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ('connection failed: FATAL:  password authentication failed for user "ada"', "28P01"),
        ("connection failed: fe_sendauth: no password supplied", "28P01"),
        ('connection failed: FATAL:  no pg_hba.conf entry for host "10.0.0.1"', "28000"),
        ('connection failed: FATAL:  role "ada" does not exist', "28000"),
        ('connection failed: FATAL:  role "ada" is not permitted to log in', "28000"),
        ("connection failed: SSL error: certificate verify failed", "28000"),
        ("connection failed: server does not support SSL, but SSL was required", "28000"),
        ('connection is bad: invalid sslmode value: "bogus"', "28000"),
        ('connection failed: FATAL:  database "nope" does not exist', "3D000"),
        (
            'connection failed: FATAL:  permission denied for database "x"\nDETAIL:  no CONNECT',
            "42501",
        ),
        ("connection failed: FATAL:  sorry, too many clients already", "53300"),
        ('connection failed: FATAL:  too many connections for role "ada"', "53300"),
        ("connection failed: FATAL:  remaining connection slots are reserved for roles", "53300"),
        ("connection failed: FATAL:  the database system is starting up", "57P03"),
        (
            (
                "consuming input failed: FATAL:  terminating connection due to administrator"
                " command\nSSL closed"
            ),
            "57P01",
        ),
        (
            (
                'connection failed: connection to server at "x", port 1 failed: Connection'
                " refused\n\tIs it on?"
            ),
            "08001",
        ),
        ("connection timeout expired", "08001"),
        ("failed to resolve host 'nowhere': [Errno -2] Name or service not known", "08001"),
        ("connection failed: session is read-only", "08001"),
        ("the connection is closed", "08006"),
        ("sending copy data failed: server closed the connection unexpectedly", "08006"),
    ],
)
def test_a_login_that_fails_brings_no_code_so_its_words_are_read(words: str, code: str) -> None:
    found = diagnose(psycopg.OperationalError(words))
    assert found and found.code == f"SQLSTATE {code}"
    assert "DETAIL" not in str(found) and "Is it on" not in str(found) and "\n" not in str(found)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (refused("SlowDown", 503), "S3 SlowDown"),
        (refused("RequestTimeout", 400), "S3 RequestTimeout"),
        (refused("InternalError", 500), "S3 InternalError"),
        (refused("XMinioStorageFull", 507), "S3 XMinioStorageFull"),
        (refused("BadDigest", 400), "S3 BadDigest"),
        (refused("SomethingNew", 503), "S3 SomethingNew"),
        (as_rclone_says_it("InternalError", 500), "S3 InternalError"),
        (InvalidResponseError(502, "text/html", "<html>Bad Gateway</html>"), "HTTP 502"),
        (InvalidResponseError(200, "text/html", "<html>Welcome</html>"), "HTTP 200"),
        (ServerError("server failed with HTTP status code 503", 503), "HTTP 503"),
        (ServerError("x", 408), "HTTP 408"),
        (ServerError("x", 429), "HTTP 429"),
        (given_up(ResponseError("too many 503 error responses")), "HTTP 503"),
        (given_up(ProtocolError("Connection aborted.", ConnectionResetError(104, "reset"))), ""),
        (
            given_up(ReadTimeoutError(urllib3.HTTPConnectionPool("lake"), "/", "Read timed out.")),
            "",
        ),
        (ProtocolError("IncompleteRead"), ""),
    ],
)
def test_the_lakes_trouble_that_may_pass_is_retried(error: Exception, code: str) -> None:
    found = diagnose(error)
    assert found and found.code == code and found.cause.retryable
    assert "Signature" not in str(found) and "<" not in found.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (refused("AccessDenied", 403), "S3 AccessDenied"),
        (refused("InvalidAccessKeyId", 403), "S3 InvalidAccessKeyId"),
        (refused("SignatureDoesNotMatch", 403), "S3 SignatureDoesNotMatch"),
        (refused("RequestTimeTooSkewed", 403), "S3 RequestTimeTooSkewed"),
        (refused("NoSuchBucket", 404), "S3 NoSuchBucket"),
        (refused("EntityTooLarge", 400), "S3 EntityTooLarge"),
        (as_rclone_says_it("NoSuchBucket", 404), "S3 NoSuchBucket"),
        (as_rclone_says_it("SignatureDoesNotMatch", 403), "S3 SignatureDoesNotMatch"),
        (InvalidResponseError(404, "text/html", "nothing here"), "HTTP 404"),
        (ServerError("x", 501), "HTTP 501"),
        (given_up(SSLError(ssl.SSLCertVerificationError("certificate verify failed"))), ""),
    ],
)
def test_what_the_lake_says_for_good_is_not_retried(error: Exception, code: str) -> None:
    found = diagnose(error)
    assert found and found.code == code and not found.cause.retryable


# What each server calls it: AWS, MinIO, SeaweedFS, Ceph, R2, Google. Before, a code that was not
# in the table was judged by its status, so that a broken line (499) and a full bucket (400) were
# never tried again.
MEANS = [
    ("is too busy", True, "SlowDown:503 SlowDownRead:503 SlowDownWrite:503 RequestTimeout:400"),
    ("is too busy", True, "ErrTooManyRequest:429 ErrRequestBytesExceed:429 TooManyRequests:429"),
    ("is too busy", True, "RequestLimitExceeded:403 UserRateLimitExceeded:403 :429 :408"),
    ("inside the lake", True, "InternalError:500 :500"),
    ("at the moment", True, "XMinioServerNotInitialized:503 XMinioReadQuorum:503"),
    ("broke while", True, "ClientDisconnected:499 ClientDisconnect:400 :499"),
    ("disk is full, or", True, "IncompleteBody:400"),
    ("disk is full", True, "XMinioStorageFull:507 InsufficientStorage:507 :507"),
    ("quota", True, "XMinioAdminBucketQuotaExceeded:400 QuotaExceeded:403 InsufficientQuota:403"),
    ("arrived damaged", True, "BadDigest:400 XAmzContentSHA256Mismatch:400 CrcMismatch:400"),
    ("does not know", False, "InvalidAccessKeyId:403 InvalidToken:400 Unauthorized:401"),
    ("secret key does not belong", False, "SignatureDoesNotMatch:403"),
    ("have expired", False, "ExpiredToken:400 TokenRefreshRequired:400"),
    ("may not do this", False, "AccessDenied:403 UserProjectAccessDenied:403"),
    ("clock", False, "RequestTimeTooSkewed:403"),
    ("account", False, "AccountProblem:403 NotEntitled:403 UserSuspended:403"),
    ("no such bucket", False, "NoSuchBucket:404"),
    ("another account", False, "BucketAlreadyExists:409 BucketNameUnavailable:409"),
    ("another region", False, "AuthorizationHeaderMalformed:400 PermanentRedirect:301"),
    ("name is longer", False, "KeyTooLongError:400 XMinioInvalidObjectName:400"),
    ("retention rule", False, "ObjectLockedByBucketPolicy:403 RetentionPolicyNotMet:403"),
    ("encryption key", False, "KMS.DisabledException:400"),
    ("cannot do this", False, "NotImplemented:501"),
]


@pytest.mark.parametrize(("why", "passes", "codes"), MEANS)
def test_what_each_server_s_code_means(why: str, passes: bool, codes: str) -> None:
    for answer in codes.split():
        code, _, status = answer.partition(":")
        error: Exception = ServerError("x", int(status))
        if code:
            error = refused(code, int(status))
            # A server that labels its answer otherwise means the same.
            same = diagnose(as_rclone_says_it(code, int(status)))
            assert same and why in same.cause.why
        found = diagnose(error)
        assert found and why in found.cause.why and found.cause.retryable is passes, answer


def test_a_refused_request_is_named_with_bucket_action_and_principal() -> None:
    error = LakeFailed("s3:PutObject", "lake/shop/x", "access key AKIA...WXYZ", "AccessDenied")
    error.__cause__ = refused("AccessDenied", 403)
    assert "s3:PutObject on lake/shop/x by access key AKIA...WXYZ: no (S3 AccessDenied)" in str(
        diagnose(error)
    )
    # Where there was no answer, who asked does not matter.
    error.__cause__ = given_up(ProtocolError("Connection refused"))
    text = "http://lake: Connection refused. The lake could not be reached"
    assert str(diagnose(error)).startswith(text)


LISTING = "<?xml version='1.0'?><ListBucketResult><Name>låke</Name></ListBucketResult>"
LOGIN_PAGE = "<!DOCTYPE html><html><body>Log in<br></body></html>"


def parsed(answer: bytes) -> Diagnosis | None:
    """What is made of `answer` where a listing was asked for."""
    try:
        ElementTree.fromstring(answer)
    except ElementTree.ParseError as cause:
        error = LakeFailed("s3:ListBucket", "lake", "access key AKIA...WXYZ", "")
        error.__cause__ = cause
        return diagnose(error)
    return None


def test_half_an_answer_is_worth_another_try_and_a_login_page_is_not() -> None:
    whole = LISTING.encode()
    for length in range(len(whole)):
        found = parsed(whole[:length])
        assert found and found.cause.retryable, whole[:length]
        assert "s3:ListBucket on lake by access key AKIA...WXYZ: " in str(found)
    assert parsed(whole) is None
    for page in (LOGIN_PAGE, "Log in", LISTING + LISTING):
        found = parsed(page.encode())
        assert found and not found.cause.retryable, page


def answered(url: str, server: bytes | None = None) -> str:
    """What is shown of a request to `url`, whose `{port}` belongs to a server that answers with
    these bytes, or to none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if server is None:
            listening.close()

        def answer() -> None:
            line, _ = listening.accept()
            with line:
                line.recv(4096)
                line.sendall(server or b"")

        thread = threading.Thread(target=answer)
        if server is not None:
            thread.start()
        with pytest.raises(urllib3.exceptions.HTTPError) as caught:
            urllib3.PoolManager(retries=False).request("GET", url.format(port=port))
        if server is not None:
            thread.join()
    wrapped = MaxRetryError(urllib3.connection_from_url(url.format(port=port)), "/x", caught.value)
    return str(diagnose(wrapped)).replace(str(port), "PORT")


@pytest.mark.parametrize(
    ("url", "server", "shown"),
    [
        ("http://127.0.0.1:{port}", None, "http://127.0.0.1:PORT: Connection refused. The lake"),
        (
            "https://127.0.0.1:{port}",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "https://127.0.0.1:PORT: the answer is not one of TLS. The lake does not speak TLS",
        ),
        ("http://127.0.0.1:{port}", b"", "http://127.0.0.1:PORT: Remote end closed connection"),
        ("http://lake.invalid:{port}", None, "http://lake.invalid:PORT: the name of the host is"),
    ],
)
def test_a_lake_that_cannot_be_reached_is_shown_without_python(
    url: str, server: bytes | None, shown: str
) -> None:
    """Before, the text had class names, tuples, `[Errno 111]` and `(_ssl.c:1006)`."""
    text = answered(url, server)
    assert text.startswith(shown) and "Next: " in text and "endpoint_url" in text
    assert not re.search(r"Errno|_ssl|_Http|Error\(|\('|0x", text)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("server does not support SSL, but SSL was required", "does not offer the encryption"),
        ("SSL error: certificate verify failed", "certificate is not trusted"),
        ('invalid sslmode value: "bogus"', "A parameter of the connection is wrong"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1"', "pg_hba.conf does not let"),
        ('FATAL:  role "ada" does not exist', "does not accept this login"),
        ('FATAL:  password authentication failed for user "ada"', "does not accept this login"),
        ('FATAL:  certificate authentication failed for user "ada"', "does not accept this login"),
    ],
)
def test_a_session_that_does_not_begin_is_not_always_a_wrong_login(words: str, why: str) -> None:
    found = diagnose(psycopg.OperationalError(f"connection failed: {words}"))
    assert found and why in found.cause.why and not found.cause.retryable


def test_a_missing_right_tells_where_the_grants_are() -> None:
    assert "`loadsheet doctor` prints the GRANTs" in str(diagnose(psycopg.errors.lookup("42501")()))


@pytest.mark.parametrize(
    ("error", "hint", "is_shown"),
    [
        (psycopg.errors.UndefinedColumn, 'Perhaps you meant to reference "o.status".', True),
        (psycopg.errors.RaiseException, "Perhaps you meant Ada.", False),
        (psycopg.errors.UndefinedColumn, "Ada has moved.", False),
    ],
)
def test_a_hint_of_the_parser_is_shown_and_no_other(
    error: type[psycopg.Error], hint: str, is_shown: bool
) -> None:
    diagnostics = type("Diag", (), {"message_primary": "no", "message_hint": hint})()
    hinting = type("Hinting", (error,), {"diag": diagnostics})
    found = diagnose(hinting())
    assert found and (hint.rstrip(".") in str(found)) is is_shown


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (TimeoutError("timed out"), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_this_machines_trouble(error: OSError, passes: bool) -> None:
    assert retried(error) is passes


class Denied(PermissionError):
    """As a library may derive it."""


@pytest.mark.parametrize(
    "error",
    [
        TypeError("x"),
        KeyError("x"),
        Denied("x"),
        psycopg.ProgrammingError("2 placeholders"),
        psycopg.InterfaceError("x"),
    ],
)
def test_what_nobody_foresaw_has_no_diagnosis(error: Exception) -> None:
    assert diagnose(error) is None


class Said(psycopg.errors.InvalidTextRepresentation):
    """As the server sends it: the primary message alone is worth showing."""

    @property
    def diag(self) -> Any:
        return type(
            "Diag",
            (),
            {"message_primary": 'invalid input value for enum mood: "Ada"', "message_hint": ""},
        )()


def test_a_division_by_zero_is_of_the_sql_not_of_a_columns_type() -> None:
    error = psycopg.errors.DivisionByZero("division by zero")
    assert "The SQL divides by zero. Next: correct the SQL" in str(diagnose(error))


def test_a_value_of_a_row_is_never_shown() -> None:
    found = diagnose(
        Said(
            'invalid input value for enum mood: "Ada"\nCONTEXT:  COPY t, line 1, column name: "Ada"'
        )
    )
    assert found and "Ada" not in str(found) and 'enum mood: "***" (SQLSTATE 22P02)' in str(found)
