"""Training functions of a team for models of several makers; ``run.params["rounds"]`` makes the second version."""

import numpy as np


def _rows(run):
    frame = run.rows()
    return frame[list(run.features)], frame[run.target]


def sklearn(run):
    """Words, from numbers, a flag and a category."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    encoded = ColumnTransformer(
        [("plan", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["plan"])], remainder="passthrough"
    )
    return make_pipeline(
        encoded, HistGradientBoostingClassifier(max_iter=run.params["rounds"], random_state=run.seed)
    ).fit(*_rows(run))


def xgboost(run):
    """The probability of class 1: a plain booster, saved by MLflow."""
    import mlflow.xgboost
    import xgboost

    rows, target = _rows(run)
    settings = {"objective": "binary:logistic", "max_depth": 3, "seed": run.seed}
    booster = xgboost.train(settings, xgboost.DMatrix(rows, label=target), run.params["rounds"])
    mlflow.xgboost.save_model(booster, str(run.folder / "made"), model_format="ubj")
    return run.folder / "made"


def lightgbm(run):
    """Classes 0 and 1."""
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=run.params["rounds"], verbose=-1, random_state=run.seed).fit(*_rows(run))


def onnx(run):
    """The least squares line as a graph of two operations."""
    import mlflow.onnx
    from onnx import TensorProto, checker, helper, numpy_helper

    rows, target = _rows(run)
    x = np.column_stack([rows.to_numpy(), np.ones(len(rows))])
    ridge = np.eye(x.shape[1]) / run.params["rounds"]
    found = np.linalg.solve(x.T @ x + ridge, x.T @ target.to_numpy()).astype("float32")
    held = [
        numpy_helper.from_array(found[:-1].reshape(-1, 1), "weights"),
        numpy_helper.from_array(found[-1:], "constant"),
    ]
    nodes = [
        helper.make_node("MatMul", ["row", "weights"], ["product"]),
        helper.make_node("Add", ["product", "constant"], ["value"]),
    ]
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, [None, len(rows.columns)])
    value = helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph(nodes, "line", [row], [value], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    mlflow.onnx.save_model(model, str(run.folder / "made"))
    return run.folder / "made"


def torch(run):
    """A small network, in MLflow's default format."""
    import mlflow.pytorch
    import torch

    torch.manual_seed(run.seed)
    torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.Linear(len(run.features), 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    rows, target = _rows(run)
    x, y = (torch.tensor(one.to_numpy(), dtype=torch.float32) for one in (rows, target))
    steps = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(10 * run.params["rounds"]):
        steps.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x)[:, 0], y)
        loss.backward()
        steps.step()
        run.log(loss=loss.item())
    net.eval()
    mlflow.pytorch.save_model(net, str(run.folder / "made"), input_example=rows.head(3).to_numpy(dtype="float32"))
    return run.folder / "made"


def plain(run):
    """A pyfunc model kept as code: one mean per plan and a slope, and how sure it is of each."""
    import mlflow.pyfunc

    rows, target = _rows(run)
    slope = float(np.polyfit(rows["a"], target, 1)[0])
    rest = target - slope * rows["a"]
    means = {plan: float(value) for plan, value in rest.groupby(rows["plan"]).mean().items()}
    code = run.folder / "wt_line.py"
    code.write_text(
        "import mlflow\nimport pandas as pd\n\n"
        f"SLOPE, MEANS, ROUNDS = {slope!r}, {means!r}, {run.params['rounds']!r}\n\n\n"
        "class Line(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        value = SLOPE * model_input['a'] + model_input['plan'].map(MEANS).astype(float)\n"
        "        return pd.DataFrame({'prediction': value, 'confidence': 1 / (1 + model_input['a'].abs())})\n\n\n"
        "mlflow.models.set_model(Line())\n"
    )
    mlflow.pyfunc.save_model(str(run.folder / "made"), python_model=str(code))
    return run.folder / "made"
