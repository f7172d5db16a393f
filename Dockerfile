# Airflow with Loadsheet and its pipelines in it. The steps are those of `make setup`, with what a deployment runs only.
FROM apache/airflow:slim-3.3.2-python3.12

USER root
# Compiled once, here. The base image's own code is not, and the file system of a container is read-only: each process
# would compile it again.
RUN python -m compileall -q -j 0 -x 'site-packages|/tests?/|lib2to3' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" || echo "a file above is not compiled"
USER airflow
ENV PIP_NO_CACHE_DIR=1
# Airflow would write its settings here at the first start; they come from the environment.
RUN mkdir /opt/airflow/project && touch /opt/airflow/airflow.cfg
WORKDIR /opt/airflow/project

# Requirements change rarely and the code often: one layer each.
COPY --chown=airflow:root requirements.txt ./
RUN python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
# Further providers, by the names of these files: --build-arg EXTRAS="git hashicorp".
ARG EXTRAS=""
COPY --chown=airflow:root requirements/*.txt requirements/
RUN for extra in celery $EXTRAS; do \
    python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r "requirements/$extra.txt" \
    || exit; done
# Git bundles need it. The base image has it, and the build stops on the day it does not.
RUN git --version
# Versions that fit by what they declare may still not work together: celery 5.7 and its provider did not.
RUN python -c 'import airflow.providers.celery.executors.celery_executor'
RUN python -m compileall -q -j 0 -x '/tests?/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || echo "a file above is not compiled"

COPY --chown=airflow:root . ./
RUN python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --no-build-isolation -e .
# Every task is a new process: without this each would compile our code again, 80 ms.
RUN python -m compileall -q dags loadsheet operators
# A spec with a mistake stops here, not at night.
RUN loadsheet check
