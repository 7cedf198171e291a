"""DAG files read as Airflow reads them, before they are in a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel_airflow import parsing


def test_what_is_in_a_folder_of_dags_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> tuple[int, str]:
        code = parsing.main([str(tmp_path)])
        said = capsys.readouterr()
        own = [line for line in (said.out + said.err).splitlines() if "[info" not in line]  # without Airflow's log
        return code, "\n".join(own)

    assert read() == (1, f"no file in {tmp_path} makes a DAG")
    (tmp_path / "beside_q3.py").write_text("NAME = 'sea'\n")
    dag = "from airflow.sdk import DAG\nfrom beside_q3 import NAME\nwith DAG(NAME):\n    pass\n"
    (tmp_path / "sea.py").write_text(dag)
    assert read() == (0, "1 DAGs: sea")
    (tmp_path / "ice.py").write_text("from airflow.sdk import DAG\nimport not_in_the_image\n")
    code, said = read()
    assert code == 1 and "ice.py" in said and "not_in_the_image" in said
