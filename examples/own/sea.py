from pathlib import Path

from windtunnel import Data, Evaluation, Metric, Model, Training

CSV = Path(__file__).with_name("sea.csv")


def train(run):
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = run.rows()
    return HistGradientBoostingRegressor(**run.params).fit(rows[run.features], rows[run.target])


model = Model(
    name="sea",
    owner="me",
    data=Data(source=str(CSV), time="time", target="temperature", features=["month", "month_ago", "year_ago"]),
    training=Training(entry_point="sea:train", params={"max_iter": 50}),
    evaluation=Evaluation(metrics=[Metric(name="mae", maximum=1.0)]),
)
