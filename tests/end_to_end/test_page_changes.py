"""Changes of operators in the web page: tokens, questions and refusals, with a simulated daemon in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from browser import PATIENCE, enter_token, opened, row
from fake_service import a_name, a_pool
from page_service import answer, many_pools, served, showcase
from playwright.sync_api import expect
from web_server import TOKEN

from nftlb.service import GuardStatus
from nftlb.web import no_tokens

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest_plugins = ("browser_fixtures",)
expect.set_options(timeout=PATIENCE)


def test_operating(chromium: Browser) -> None:
    """A wrong token is refused where it is entered; a change that loses traffic is asked back with what it loses."""
    with served(showcase()) as api, opened(chromium, api.url) as (page, faults):
        row(page, "ns1").get_by_role("button").click()
        page.get_by_role("button", name="Drain").click()
        enter_token(page, "wrong")
        question = page.locator("#question")
        expect(question).to_contain_text("the bearer token is wrong")
        enter_token(page, TOKEN)
        expect(question).to_contain_text("dns/ns1: ")  # the consequence that this daemon has for all changes
        expect(question).to_contain_text("now the pool dns gets ")
        page.get_by_role("button", name="Cancel").click()
        assert [] == api.service.done

        page.get_by_role("button", name="Drain").click()
        page.get_by_role("button", name="Drain anyway").click()
        expect(page.locator("#details .chip")).to_contain_text("drained")
        assert ["change dns/ns1 drain None"] == api.service.done
        assert TOKEN not in page.url
        page.get_by_role("button", name="Close", exact=True).click()

        page.locator("tr.pool").get_by_role("button", name="dns", exact=True).click()
        page.get_by_role("button", name="Add a backend").click()
        page.get_by_label("Name", exact=True).fill("ns9")
        page.get_by_label("Address", exact=True).fill("224.0.0.1")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(question).to_contain_text("224.0.0.1")  # refused, with the reason, and the fields stay
        page.get_by_label("Address", exact=True).fill("10.0.0.19")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(row(page, "ns9")).to_contain_text("(added)")
        assert [] == faults


def begin_operating(page: Page) -> None:
    """Enter the token before the first change."""
    page.get_by_role("button", name="Enter token").click()
    enter_token(page, TOKEN)
    expect(page.get_by_role("button", name="Forget token")).to_be_visible()


def test_no_question_without_a_loss(chromium: Browser) -> None:
    """A change that loses no traffic is made at once; a removal is always asked back."""
    with served(showcase()) as api, opened(chromium, api.url) as (page, faults):
        begin_operating(page)
        answer(page, "*preview=true", {"consequences": []})
        row(page, "ns1").get_by_role("button").click()
        page.get_by_role("button", name="Drain").click()
        expect(page.locator("#details .chip")).to_contain_text("drained")
        page.get_by_role("button", name="Remove").click()
        page.locator("#question").get_by_role("button", name="Remove").click()
        expect(row(page, "ns1")).to_have_count(0)
        assert ["change dns/ns1 drain None", "remove dns/ns1"] == api.service.done
        assert [] == faults


def test_a_double_click_is_one_change(chromium: Browser) -> None:
    """The daemon is asked once, and there is one question; afterwards the same button works again."""
    with served(showcase()) as api, opened(chromium, api.url) as (page, faults):
        begin_operating(page)
        previews: list[str] = []
        page.on("request", lambda request: previews.append(request.url) if "preview=true" in request.url else None)
        row(page, "ns1").get_by_role("button").click()
        question = page.locator("#question")
        for number in (1, 2):
            page.get_by_role("button", name="Drain").evaluate("button => { button.click(); button.click(); }")
            expect(question).to_contain_text("dns/ns1: ")
            question.get_by_role("button", name="Cancel").click()
            expect(question).to_be_hidden()
            assert number == len(previews)
        assert [] == api.service.done
        assert [] == faults


def test_two_changes_ask_one_after_the_other(chromium: Browser) -> None:
    """The question of a second change waits until the first is answered."""
    with served(showcase()) as api, opened(chromium, api.url) as (page, faults):
        begin_operating(page)
        row(page, "ns1").get_by_role("button").click()
        page.locator("#details").evaluate(
            "details => { for (const button of details.querySelectorAll('button'))"
            " if (['Drain', 'Remove'].includes(button.textContent)) button.click(); }"
        )
        question = page.locator("#question")
        expect(question).to_be_visible()
        first = question.locator("h2").inner_text()
        question.get_by_role("button", name="Cancel").click()
        expect(question.locator("h2")).not_to_have_text(first)
        second = question.locator("h2").inner_text()
        assert {"Drain dns/ns1?", "Remove dns/ns1?"} == {first, second}
        question.get_by_role("button", name="Cancel").click()
        expect(question).to_be_hidden()
        assert [] == api.service.done
        assert [] == faults


def test_a_pool_without_backends(chromium: Browser) -> None:
    """Nothing can be drained in a pool whose names have no address yet."""
    service = showcase()
    service.put(a_pool("empty"))
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        page.locator("tr.pool").get_by_role("button", name="empty", exact=True).click()
        details = page.locator("#details")
        expect(details.get_by_role("button", name="Add a backend")).to_be_enabled()
        for name in ("Enable all", "Drain all", "Maintenance of all"):
            expect(details.get_by_role("button", name=name)).to_be_disabled()
        assert [] == api.service.done
        assert [] == faults


def test_names_of_a_pool(chromium: Browser) -> None:
    """The details of a pool have its names, their addresses that can't be backends, and what was set of absent ones."""
    service, wishes = showcase(), {f"web-10.0.5.{number}": "drain" for number in range(2, 16)}
    names = (
        a_name("ns", "ns.example.com", backends=("ns-10.0.0.11",), kept={"ns-10.0.0.99": "maintenance, weight 3"}),
        a_name("web", "SRV _web._udp.example.com", backends=("web-10.0.5.1", "web-10.0.5.2"), kept=wishes),
        a_name("many", "many.example.com", left_out=tuple(f"10.0.6.{number} is a listener" for number in range(14))),
    )
    service.put(service.shown["dns"].model_copy(update={"names": names}))
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        page.locator("tr.pool").get_by_role("button", name="dns", exact=True).click()
        facts, listeners = page.locator("#details dd"), [f"10.0.6.{number} is a listener" for number in range(12)]
        expect(facts.filter(has_text="ns.example.com")).to_have_text("ns.example.com: 1 address")
        expect(facts.filter(has_text="SRV")).to_have_text("SRV _web._udp.example.com: 2 addresses")
        expect(facts.filter(has_text="weight 3")).to_have_text("the operator had set: maintenance, weight 3")
        expect(page.locator("#details dt").filter(has_text="is absent")).to_have_count(13)
        expect(facts.filter(has_text="operator had changed")).to_have_text("2 addresses that the operator had changed")
        expect(facts.filter(has_text="10.0.6.")).to_have_text(listeners)
        expect(facts.last).to_have_text("2 more")
        assert [] == faults


def test_the_guard_of_a_pool(chromium: Browser) -> None:
    """The details of a pool have all counters of its guard."""
    service = showcase()
    guard = GuardStatus(rate=5, banned=1200, denied=0, full=7)
    service.put(service.shown["dns"].model_copy(update={"guard": guard}))
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        page.locator("tr.pool").get_by_role("button", name="dns", exact=True).click()
        dropped = "5 above the rate, 1,200 banned, 0 denied, 7 without room"
        expect(page.locator("#details dd").filter(has_text="banned")).to_have_text(dropped)
        assert [] == faults


def test_a_new_backend_with_labels(chromium: Browser) -> None:
    """A backend gets its labels when it is added; the refusal of a label is shown. A weight is needed."""
    with served(showcase()) as api, opened(chromium, api.url) as (page, faults):
        begin_operating(page)
        page.locator("tr.pool").get_by_role("button", name="dns", exact=True).click()
        page.get_by_role("button", name="Add a backend").click()
        question = page.locator("#question")
        for label, text in (("Name", "ns9"), ("Address", "10.0.0.19"), ("Labels", "site=fra, =x"), ("Weight", "")):
            question.get_by_label(label).fill(text)
        add = question.get_by_role("button", name="Add", exact=True)
        add.click()
        question.get_by_label("Weight").fill("3")
        add.click()
        expect(question).to_contain_text('"" is not a name of a label')
        question.get_by_label("Labels").fill("site=fra,rack=r12  url=a:1/b")
        add.click()
        expect(question).to_be_hidden()
        page.get_by_role("button", name="Close", exact=True).click()
        row(page, "ns9").get_by_role("button").click()
        expect(page.locator("#details dl")).to_contain_text("site=fra, rack=r12, url=a:1/b")
        assert 3 == api.service.shown["dns"].backends[-1].weight
        assert [] == faults


def test_a_refusal_comes_before_a_token(chromium: Browser) -> None:
    """A daemon without a token file refuses all changes: the page shows the reason, and asks for no token."""
    with served(showcase(), tokens=no_tokens) as api, opened(chromium, api.url) as (page, faults):
        page.get_by_role("button", name="Enter token").click()
        expect_refusal(page)
        row(page, "ns1").get_by_role("button").click()
        for name in ("Drain", "Maintenance", "Set the weight", "Remove"):
            page.locator("#details").get_by_role("button", name=name).click()
            expect_refusal(page)
        page.get_by_role("button", name="Close", exact=True).click()
        page.locator("tr.pool").get_by_role("button", name="dns", exact=True).click()
        page.get_by_role("button", name="Add a backend").click()
        expect_refusal(page)
        page.get_by_role("button", name="Close", exact=True).click()
        page.get_by_role("link", name="Configuration").click()
        page.get_by_role("button", name="Read the file again").click()
        expect(page.locator("#problems")).to_contain_text("no token_file is set under api in the file")
        assert [] == api.service.done
        assert [] == faults


def expect_refusal(page: Page) -> None:
    """Expect the reason in a dialog without a field for a token, and close the dialog."""
    question = page.locator("#question")
    expect(question).to_contain_text("no token_file is set under api in the file")
    expect(question.locator("input")).to_have_count(0)
    question.get_by_role("button", name="Close").click()
    expect(question).to_be_hidden()


def test_a_token_that_was_revoked(chromium: Browser) -> None:
    """A token that the daemon no longer accepts is asked for again, with the reason."""
    with served(showcase()) as api, opened(chromium, api.url) as (page, faults):
        page.evaluate("sessionStorage.setItem('nftlb-token', 'revoked')")
        page.reload()
        expect(page.get_by_role("button", name="Forget token")).to_be_visible()
        page.get_by_role("link", name="Configuration").click()
        page.get_by_role("button", name="Read the file again").click()
        expect(page.locator("#question")).to_contain_text("the bearer token is wrong")
        enter_token(page, TOKEN)
        expect(page.locator("#question")).to_be_hidden()
        expect(page.locator("#news")).to_have_text("The file is in use")
        assert ["reload"] == api.service.done
        assert [] == faults


def test_several_backends(chromium: Browser) -> None:
    """Selected backends of several pools, or all of a pool, change together after one question with their names."""
    with served(showcase()) as api, opened(chromium, api.url) as (page, faults):
        begin_operating(page)
        answer(page, "*preview=true", {"consequences": []})
        search = page.get_by_label("Find a pool, backend, address or label")
        search.fill("10.0.2.")
        page.get_by_role("button", name="Select all found").click()
        search.fill("")
        page.get_by_label("Select dns/ns2").check()
        page.get_by_label("Select netflow/flow3").uncheck()
        selection = page.locator("#selection")
        expect(selection).to_contain_text("3 backends selected")
        selection.get_by_role("button", name="Maintenance").click()
        question = page.locator("#question")
        expect(question).to_contain_text("Maintenance of 3 backends?")
        expect(question).to_contain_text("netflow/flow1, netflow/flow2, dns/ns2")
        assert [] == api.service.done
        question.get_by_role("button", name="Begin maintenance").click()
        for name in ("flow1", "flow2", "ns2"):
            expect(row(page, name)).to_contain_text("in maintenance")
        expect(selection).to_be_hidden()
        changed = ("netflow/flow1", "netflow/flow2", "dns/ns2")
        assert [f"change {key} maintenance None" for key in changed] == api.service.done

        page.locator("tr.pool").get_by_role("button", name="radius", exact=True).click()
        page.get_by_role("button", name="Drain all").click()
        expect(question).to_contain_text("radius/aaa1, radius/aaa2")
        question.get_by_role("button", name="Drain").click()
        expect(page.locator("#details .chip")).to_have_text("‖ ready, 2 out")
        page.get_by_role("button", name="Close", exact=True).click()

        page.get_by_label("Select radius/aaa1").check()
        expect(selection).to_contain_text("1 backend selected")
        api.service.put(api.service.shown["radius"].model_copy(update={"backends": ()}))
        expect(selection).to_be_hidden()  # the backend is gone
        assert [] == faults


def test_a_reload_that_loses_something_is_asked_back(chromium: Browser) -> None:
    """The question says what the file does not have any more; without a loss, the file is read at once."""
    service = showcase()
    service.losses = tuple(f"the pool p{number} would be removed" for number in range(30))
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        begin_operating(page)
        page.get_by_role("link", name="Configuration").click()
        reload, question = page.get_by_role("button", name="Read the file again"), page.locator("#question")
        reload.click()
        expect(question).to_contain_text("the pool p19 would be removed")
        expect(question.locator("li").last).to_have_text("10 more")
        question.get_by_role("button", name="Cancel").click()
        expect(question).to_be_hidden()
        expect(reload).to_be_enabled()
        assert [] == service.done
        reload.click()
        question.get_by_role("button", name="Use the file anyway").click()
        expect(page.locator("#news")).to_have_text("The file is in use")
        assert ["reload"] == service.done
        service.losses = ()
        reload.click()
        expect(reload).to_be_enabled()
        expect(question).to_be_hidden()
        assert ["reload", "reload"] == service.done
        assert [] == faults


def test_all_of_ten_thousand_backends(chromium: Browser) -> None:
    """One question and one request drain 10,000 backends."""
    service = many_pools(1000)
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        begin_operating(page)
        answer(page, "*preview=true", {"consequences": []})
        page.get_by_label("Find a pool, backend, address or label").fill("pool")
        page.get_by_role("button", name="Select all found").click()
        page.locator("#selection").get_by_role("button", name="Drain").click()
        question = page.locator("#question")
        expect(question).to_contain_text("Drain 10,000 backends?")
        expect(question).to_contain_text("and 9,988 more")
        question.get_by_role("button", name="Drain").click()
        expect(question).to_be_hidden()
        assert 10_000 == len(service.done)
        assert [] == faults
