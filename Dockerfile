# Airflow with Loadsheet and its pipelines in it. The steps are those of `make setup`, with what a deployment runs only.
FROM apache/airflow:slim-3.3.2-python3.12

USER airflow
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN mkdir /opt/airflow/project
WORKDIR /opt/airflow/project

# Requirements change rarely and the code often: one layer each.
COPY --chown=airflow:root requirements.txt ./
RUN python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
COPY --chown=airflow:root requirements/celery.txt requirements/
RUN python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/celery.txt

COPY --chown=airflow:root . ./
RUN python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --no-build-isolation -e .
# Every task is a new process: without this each would compile our code again, 80 ms.
RUN python -m compileall -q dags loadsheet operators
# A spec with a mistake stops here, not at night.
RUN loadsheet check
