// The page in a frame of Airflow. The frame may not open other addresses in its window, so a link
// to Airflow is followed by the document around it.

export function followLinksToAirflow() {
  if (window.parent === window) return;
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[target=_top]");
    if (!link || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const outside = window.parent.document.createElement("a");
    outside.href = link.href;
    window.parent.document.body.append(outside);
    outside.click();
    outside.remove();
  });
}
