"""A page in Chromium, from disk and without a network, and all that it asked for, said and raised."""

from __future__ import annotations

from typing import Any

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Visit:
    """An open page, and all that it asked for, said and raised."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(10_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def names(self) -> list[str]:
        """What the cards of the gallery say, as they stand."""
        return self.page.locator("#samples .card").all_inner_texts()

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_label(label, exact=True).select_option(label=option)

    def sideways_px(self) -> int:
        """By how much the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
