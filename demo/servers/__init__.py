"""Servers for the demo and the tests: all on 127.0.0.1, free ports, random credentials, gone with
their owner."""

from demo.servers.postgres import PostgresServer
from demo.servers.s3 import S3Server
from demo.servers.slack import SlackReceiver

__all__ = ["PostgresServer", "S3Server", "SlackReceiver"]
