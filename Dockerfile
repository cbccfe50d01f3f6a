FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/machat && /opt/machat/bin/pip install --no-cache-dir '.[fast,redis]'

FROM python:3.13-slim
COPY --from=build /opt/machat /opt/machat
# For MACHAT_STORE: a new volume that is mounted here belongs to the same user.
RUN install -d -o 10001 -g 10001 /data
# A number, so that Kubernetes' runAsNonRoot can check it; it needs no entry in /etc/passwd.
USER 10001:10001
# As variables and not as CMD, so that flags can be appended to `docker run` without repeating these two.
ENV MACHAT_ADDRESS=:8989 MACHAT_TELNET=:6000
EXPOSE 8989 6000
# A whole conversation: shake hands, say goodbye, and get the answer; under a name that no other server's check has.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/opt/machat/bin/python", "-c", "import json, os, secrets, socket, sys; port = os.environ['MACHAT_ADDRESS'].rpartition(':')[2]; s = socket.create_connection(('localhost', port), 3); s.sendall(json.dumps({'name': f'check-{secrets.token_hex(8)}', 'room': 'healthcheck', 'commands': True}).encode() + b'/bye\\n'); sys.exit(b'* goodbye' not in s.makefile('rb').read())"]
# The exec form: the server is the process that gets SIGTERM, and drains.
ENTRYPOINT ["/opt/machat/bin/chatserver"]
