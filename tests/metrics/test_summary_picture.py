"""The picture of an evaluation: every case's scores, and the worst by name."""

from matplotlib.collections import PathCollection

from custom_nets.metrics.summary_picture import draw_summary


def report(scores):
    return {
        "cases": [
            {"case": name, "regions": {"WT": {"dice": dice, "hd95_mm": hd95}, "TC": {"dice": dice, "hd95_mm": None}}}
            for name, dice, hd95 in scores
        ]
    }


def test_shows_every_case_and_names_the_worst(tmp_path):
    middling = ((f"c{number}", 0.5, 5.0) for number in range(12))
    figure = draw_summary(report([("good", 0.9, 2.0), ("$bad_1$", 0.1, 40.0), *middling]))
    assert [axes.get_title() for axes in figure.axes] == ["Dice", "HD95, mm", ""]
    assert len(figure.axes[0].collections[0].get_offsets()) == 14
    text = figure.axes[-1].texts[0].get_text().splitlines()
    assert "$bad_1$" in text[1]
    assert len(text) == 11
    assert "good" not in "".join(text)
    figure.savefig(tmp_path / "summary.png")


def test_a_score_that_is_missing_is_no_dot():
    figure = draw_summary(report([("a", 0.9, 2.0)]))
    dots = [group.get_offsets() for group in figure.axes[1].collections if isinstance(group, PathCollection)]
    assert [len(group) for group in dots] == [1, 0]
